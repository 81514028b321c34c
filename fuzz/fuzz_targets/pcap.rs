//! Bytes of a hostile capture file against what reads it: nothing panics, what is wanted next is bounded, and no frame has
//! more bytes than it says that it had.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outboard_frames::pcap::{MAX_WANTED, Reader, file_header, frame_header};

fuzz_target!(|data: &[u8]| {
    let (mut rest, mut reader) = (data, Reader::new());
    let mut copy = file_header().to_vec();
    let mut frames = Vec::new();
    while !(rest.is_empty() && reader.is_between()) {
        assert!(reader.wanted() <= MAX_WANTED);
        let Some(bytes) = rest.split_off(..reader.wanted()) else { break };
        match reader.take(bytes) {
            Ok(Some(frame)) => {
                assert!(frame.bytes.len() <= frame.len as usize);
                copy.extend(frame_header(frame.at.unwrap_or_default(), frame.bytes.len() as u32, frame.len));
                copy.extend_from_slice(frame.bytes);
                frames.push((frame.bytes, frame.len));
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
    // What was read is written, and read once more.
    let (mut rest, mut reader, mut count) = (copy.as_slice(), Reader::new(), 0);
    while !(rest.is_empty() && reader.is_between()) {
        let bytes = rest.split_off(..reader.wanted()).expect("a whole file");
        if let Some(frame) = reader.take(bytes).expect("a file of our own") {
            assert_eq!((frame.bytes, frame.len), frames[count]);
            count += 1;
        }
    }
    assert_eq!(count, frames.len());
});
