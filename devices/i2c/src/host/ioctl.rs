//! The calls of an adapter's character device, `linux/i2c-dev.h` and `linux/i2c.h`.
#![allow(unsafe_code, reason = "ioctls take pointers, and pointers to structures with pointers")]

use std::ffi::c_void;
use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{IntegerSetter, Ioctl, IoctlOutput, Opcode, Updater, ioctl};

const I2C_RETRIES: Opcode = 0x0701;
const I2C_TIMEOUT: Opcode = 0x0702;
const I2C_SLAVE: Opcode = 0x0703;
const I2C_TENBIT: Opcode = 0x0704;
const I2C_FUNCS: Opcode = 0x0705;
const I2C_SLAVE_FORCE: Opcode = 0x0706;
const I2C_RDWR: Opcode = 0x0707;
const I2C_PEC: Opcode = 0x0708;
const I2C_SMBUS: Opcode = 0x0720;

/// The message reads.
pub(super) const M_RD: u16 = 0x0001;
/// Its address has 10 bits.
pub(super) const M_TEN: u16 = 0x0010;

/// What an adapter can do.
pub(super) mod functions {
    pub(in super::super) const I2C: u64 = 1;
    pub(in super::super) const TEN_BIT: u64 = 1 << 1;
    pub(in super::super) const PEC: u64 = 1 << 3;
    pub(in super::super) const BLOCK_PROC_CALL: u64 = 1 << 15;
    pub(in super::super) const QUICK: u64 = 1 << 16;
    pub(in super::super) const READ_BYTE: u64 = 1 << 17;
    pub(in super::super) const WRITE_BYTE: u64 = 1 << 18;
    pub(in super::super) const READ_BYTE_DATA: u64 = 1 << 19;
    pub(in super::super) const WRITE_BYTE_DATA: u64 = 1 << 20;
    pub(in super::super) const READ_WORD_DATA: u64 = 1 << 21;
    pub(in super::super) const WRITE_WORD_DATA: u64 = 1 << 22;
    pub(in super::super) const PROC_CALL: u64 = 1 << 23;
    pub(in super::super) const READ_BLOCK_DATA: u64 = 1 << 24;
    pub(in super::super) const WRITE_BLOCK_DATA: u64 = 1 << 25;
    pub(in super::super) const READ_I2C_BLOCK: u64 = 1 << 26;
    pub(in super::super) const WRITE_I2C_BLOCK: u64 = 1 << 27;
}

/// `struct i2c_msg`.
#[repr(C)]
struct Msg {
    addr: u16,
    flags: u16,
    len: u16,
    buf: *mut u8,
}

/// `struct i2c_rdwr_ioctl_data`.
#[repr(C)]
struct Rdwr {
    msgs: *mut Msg,
    nmsgs: u32,
}

/// `union i2c_smbus_data`: a byte, a word, or a length and so many bytes.
pub(super) type SmbusData = [u8; 34];

/// `struct i2c_smbus_ioctl_data`.
#[repr(C)]
struct SmbusCall {
    read_write: u8,
    command: u8,
    size: u32,
    data: *mut SmbusDataAligned,
}

#[repr(C, align(2))]
struct SmbusDataAligned(SmbusData);

/// A message of [`rdwr`].
pub(super) struct Part<'a> {
    pub(super) addr: u16,
    pub(super) flags: u16,
    pub(super) data: &'a mut [u8],
}

/// What the adapter can do: [`functions`].
pub(super) fn abilities(fd: impl AsFd) -> io::Result<u64> {
    let mut functions: libc_ulong = 0;
    // SAFETY: the call writes an unsigned long.
    unsafe { ioctl(fd, Updater::<I2C_FUNCS, libc_ulong>::new(&mut functions))? };
    Ok(functions as u64)
}

/// The kernel's `unsigned long`.
#[expect(non_camel_case_types, reason = "as in C")]
type libc_ulong = usize;

macro_rules! set {
    ($(#[$doc:meta])* $name:ident, $opcode:ident) => {
        $(#[$doc])*
        pub(super) fn $name(fd: impl AsFd, value: usize) -> io::Result<()> {
            // SAFETY: the call takes a number.
            unsafe { ioctl(fd, IntegerSetter::<$opcode>::new_usize(value))? };
            Ok(())
        }
    };
}

set! {
    /// Whom SMBus calls are for; refused for a chip that a driver of the host has.
    set_address, I2C_SLAVE
}
set! {
    /// Likewise, and not refused.
    set_address_by_force, I2C_SLAVE_FORCE
}
set! {
    /// Whether that address has 10 bits.
    set_ten_bit, I2C_TENBIT
}
set! {
    /// Whether SMBus calls have a checksum.
    set_pec, I2C_PEC
}
set! {
    /// How often the adapter tries again.
    set_retries, I2C_RETRIES
}
set! {
    /// When it gives up, in steps of 10 ms.
    set_timeout, I2C_TIMEOUT
}

/// The call that carries out a transaction, and says how many messages went well.
struct Transaction(Rdwr);

// SAFETY: the call's argument is a pointer to the structure, and its result a number.
unsafe impl Ioctl for Transaction {
    type Output = usize;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        I2C_RDWR
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.0).cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        Ok(usize::try_from(output).unwrap_or(0))
    }
}

/// Carries out a transaction of at most 42 messages, of at most 8192 bytes each. Returns how many of them went well: some
/// adapters say so, where others fail.
pub(super) fn rdwr<'a>(fd: impl AsFd, parts: impl Iterator<Item = Part<'a>>) -> io::Result<usize> {
    let mut msgs: Vec<Msg> = parts
        .map(|Part { addr, flags, data }| Msg {
            addr,
            flags,
            len: u16::try_from(data.len()).unwrap_or(u16::MAX),
            buf: data.as_mut_ptr(),
        })
        .collect();
    let rdwr = Rdwr { msgs: msgs.as_mut_ptr(), nmsgs: u32::try_from(msgs.len()).unwrap_or(u32::MAX) };
    // SAFETY: the call reads the structure and so many messages, and reads or writes so many bytes of each, which are
    // borrowed for as long; lengths beyond 16 bits are refused, as the kernel takes 8192 at most.
    Ok(unsafe { ioctl(fd, Transaction(rdwr))? })
}

/// Makes an SMBus call to the address that was set.
pub(super) fn smbus(
    fd: impl AsFd,
    read: bool,
    command: u8,
    size: u32,
    data: &mut SmbusData,
) -> io::Result<()> {
    let mut aligned = SmbusDataAligned(*data);
    let mut call = SmbusCall { read_write: read.into(), command, size, data: &raw mut aligned };
    // SAFETY: the call reads the structure, and reads and writes the union, which lives as long.
    unsafe { ioctl(fd, Updater::<I2C_SMBUS, SmbusCall>::new(&mut call))? };
    *data = aligned.0;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_large_as_the_kernel_has_them() {
        assert_eq!([size_of::<Msg>(), size_of::<Rdwr>(), size_of::<SmbusCall>()], [16, 16, 16]);
        assert_eq!(size_of::<SmbusDataAligned>(), 34);
    }

    #[test]
    fn calls_to_what_is_no_adapter_fail() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(abilities(&file).is_err());
        assert!(set_address(&file, 0x50).is_err());
        assert!(smbus(&file, true, 0, 0, &mut [0; 34]).is_err());
        let mut data = [1, 2];
        let parts = [Part { addr: 0x50, flags: M_RD, data: &mut data }];
        assert!(rdwr(&file, parts.into_iter()).is_err());
    }
}
