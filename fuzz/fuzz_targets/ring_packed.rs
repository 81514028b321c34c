//! The packed ring: see `ring`.
#![no_main]

mod ring;

use libfuzzer_sys::fuzz_target;
use outboard_virtqueue::Format;

fuzz_target!(|data: &[u8]| ring::run(data, Format::Packed));
