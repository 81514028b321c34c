//! The calls of a chip's character device, version 2 of `linux/gpio.h`.
#![allow(unsafe_code, reason = "ioctls take pointers to structures")]

use std::io;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};

use rustix::ioctl::{Getter, Opcode, Updater, ioctl, opcode};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

const MAGIC: u8 = 0xb4;
const CHIP_INFO: Opcode = opcode::read::<ChipInfo>(MAGIC, 0x01);
const LINE_INFO: Opcode = opcode::read_write::<LineInfo>(MAGIC, 0x05);
const GET_LINE: Opcode = opcode::read_write::<LineRequest>(MAGIC, 0x07);
const SET_CONFIG: Opcode = opcode::read_write::<LineConfig>(MAGIC, 0x0d);
const GET_VALUES: Opcode = opcode::read_write::<LineValues>(MAGIC, 0x0e);
const SET_VALUES: Opcode = opcode::read_write::<LineValues>(MAGIC, 0x0f);

/// Flags of a line.
pub(super) mod flag {
    /// Somebody uses it.
    pub(in super::super) const USED: u64 = 1;
    pub(in super::super) const INPUT: u64 = 1 << 2;
    pub(in super::super) const OUTPUT: u64 = 1 << 3;
    pub(in super::super) const EDGE_RISING: u64 = 1 << 4;
    pub(in super::super) const EDGE_FALLING: u64 = 1 << 5;
}

/// Attributes of a line's configuration: the level of outputs, and how long changes are ignored.
const OUTPUT_VALUES: u32 = 2;
const DEBOUNCE: u32 = 3;
/// `GPIO_V2_LINE_EVENT_RISING_EDGE`.
pub(super) const RISING: u32 = 1;

/// `struct gpiochip_info`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ChipInfo {
    pub(super) name: [u8; 32],
    pub(super) label: [u8; 32],
    pub(super) lines: u32,
}

/// `struct gpio_v2_line_attribute`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Attribute {
    id: u32,
    padding: u32,
    value: u64,
}

/// `struct gpio_v2_line_info`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LineInfo {
    pub(super) name: [u8; 32],
    pub(super) consumer: [u8; 32],
    pub(super) offset: u32,
    num_attrs: u32,
    pub(super) flags: u64,
    attrs: [Attribute; 10],
    padding: [u32; 4],
}

/// `struct gpio_v2_line_config_attribute`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ConfigAttribute {
    attr: Attribute,
    mask: u64,
}

/// `struct gpio_v2_line_config`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LineConfig {
    flags: u64,
    num_attrs: u32,
    padding: [u32; 5],
    attrs: [ConfigAttribute; 10],
}

/// `struct gpio_v2_line_request`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LineRequest {
    offsets: [u32; 64],
    consumer: [u8; 32],
    config: LineConfig,
    num_lines: u32,
    event_buffer_size: u32,
    padding: [u32; 5],
    fd: i32,
}

/// `struct gpio_v2_line_values`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LineValues {
    bits: u64,
    mask: u64,
}

/// `struct gpio_v2_line_event`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct LineEvent {
    timestamp_ns: u64,
    pub(super) id: u32,
    pub(super) offset: u32,
    seqno: u32,
    line_seqno: u32,
    padding: [u32; 6],
}

/// What is asked of a line that is requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// [`flag`]s.
    pub(super) flags: u64,
    /// The level of an output.
    pub(super) level: bool,
    /// How long changes of an input are ignored, in microseconds; 0: not at all.
    pub(super) debounce_us: u32,
}

impl Config {
    fn to_kernel(self) -> LineConfig {
        let mut config = LineConfig::new_zeroed();
        config.flags = self.flags;
        let (id, value) = match self.flags & flag::OUTPUT != 0 {
            true => (OUTPUT_VALUES, u64::from(self.level)),
            false => (DEBOUNCE, u64::from(self.debounce_us)),
        };
        if let Some(attribute) = config.attrs.first_mut().filter(|_| id == OUTPUT_VALUES || value > 0) {
            *attribute = ConfigAttribute { attr: Attribute { id, padding: 0, value }, mask: 1 };
            config.num_attrs = 1;
        }
        config
    }
}

/// What a chip is.
pub(super) fn chip_info(fd: impl AsFd) -> io::Result<ChipInfo> {
    // SAFETY: the call writes the structure, of which all bits are values.
    Ok(unsafe { ioctl(fd, Getter::<CHIP_INFO, ChipInfo>::new()) }?)
}

/// What a line is.
pub(super) fn line_info(fd: impl AsFd, offset: u32) -> io::Result<LineInfo> {
    let mut info = LineInfo { offset, ..LineInfo::new_zeroed() };
    // SAFETY: the call reads and writes the structure, of which all bits are values.
    unsafe { ioctl(fd, Updater::<LINE_INFO, LineInfo>::new(&mut info)) }?;
    Ok(info)
}

/// Takes a line: a descriptor for it, which is not inherited and whose reads do not wait.
pub(super) fn get_line(fd: impl AsFd, offset: u32, config: Config) -> io::Result<OwnedFd> {
    let mut request = LineRequest::new_zeroed();
    let [first, ..] = &mut request.offsets;
    *first = offset;
    request.consumer.iter_mut().zip(b"outboard").for_each(|(place, byte)| *place = *byte);
    request.config = config.to_kernel();
    request.num_lines = 1;
    // SAFETY: the call reads and writes the structure, of which all bits are values.
    unsafe { ioctl(fd, Updater::<GET_LINE, LineRequest>::new(&mut request)) }?;
    // SAFETY: the call succeeded, so this is a new descriptor, and nobody else has it.
    let line = unsafe { OwnedFd::from_raw_fd(request.fd) };
    rustix::io::ioctl_fionbio(&line, true)?;
    Ok(line)
}

/// Changes what is asked of a line.
pub(super) fn set_config(line: impl AsFd, config: Config) -> io::Result<()> {
    let mut config = config.to_kernel();
    // SAFETY: the call reads the structure, of which all bits are values.
    unsafe { ioctl(line, Updater::<SET_CONFIG, LineConfig>::new(&mut config)) }?;
    Ok(())
}

/// The level of a line.
pub(super) fn value(line: impl AsFd) -> io::Result<bool> {
    let mut values = LineValues { bits: 0, mask: 1 };
    // SAFETY: the call reads and writes the structure, of which all bits are values.
    unsafe { ioctl(line, Updater::<GET_VALUES, LineValues>::new(&mut values)) }?;
    Ok(values.bits & 1 != 0)
}

/// Drives a line.
pub(super) fn set_value(line: impl AsFd, high: bool) -> io::Result<()> {
    let mut values = LineValues { bits: high.into(), mask: 1 };
    // SAFETY: the call reads the structure, of which all bits are values.
    unsafe { ioctl(line, Updater::<SET_VALUES, LineValues>::new(&mut values)) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_and_calls_are_those_of_the_kernel() {
        assert_eq!([size_of::<ChipInfo>(), size_of::<LineInfo>(), size_of::<LineConfig>()], [68, 256, 272]);
        assert_eq!(
            [size_of::<LineRequest>(), size_of::<LineValues>(), size_of::<LineEvent>()],
            [592, 16, 48]
        );
        let numbers = [0x8044_b401, 0xc100_b405, 0xc250_b407, 0xc110_b40d, 0xc010_b40e, 0xc010_b40f];
        let calls = [CHIP_INFO, LINE_INFO, GET_LINE, SET_CONFIG, GET_VALUES, SET_VALUES];
        assert_eq!(calls, numbers);
    }

    #[test]
    fn calls_to_what_is_no_chip_fail() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(chip_info(&file).is_err() && line_info(&file, 0).is_err() && value(&file).is_err());
        assert!(get_line(&file, 0, Config::default()).is_err() && set_value(&file, true).is_err());
        assert!(set_config(&file, Config::default()).is_err());
    }
}
