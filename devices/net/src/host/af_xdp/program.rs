//! The program in the kernel that gives the packets of an interface's queues to our sockets: five instructions, which pass
//! on what no socket is for. The kernel checks it, and drops it with the last descriptor, however this process ends.
#![allow(unsafe_code, reason = "bpf(2), with structures as linux/bpf.h has them")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

/// Of `bpf(2)` (linux/bpf.h).
mod abi {
    pub(super) const MAP_CREATE: libc::c_int = 0;
    pub(super) const MAP_UPDATE_ELEM: libc::c_int = 2;
    pub(super) const PROG_LOAD: libc::c_int = 5;
    pub(super) const LINK_CREATE: libc::c_int = 28;
    /// `BPF_MAP_TYPE_XSKMAP`, `BPF_PROG_TYPE_XDP`, `BPF_XDP`.
    pub(super) const XSKMAP: u32 = 17;
    pub(super) const XDP: u32 = 6;
    pub(super) const ATTACH_XDP: u32 = 37;
    /// `XDP_FLAGS_SKB_MODE`, `XDP_FLAGS_DRV_MODE` (linux/if_link.h).
    pub(super) const SKB_MODE: u32 = 1 << 1;
    pub(super) const DRV_MODE: u32 = 1 << 2;
    /// `BPF_FUNC_redirect_map`, `XDP_PASS`, `BPF_PSEUDO_MAP_FD`, and where `rx_queue_index` is in `struct xdp_md`.
    pub(super) const REDIRECT_MAP: i32 = 51;
    pub(super) const PASS: i32 = 2;
    pub(super) const MAP_FD: u8 = 1;
    pub(super) const RX_QUEUE_INDEX: i16 = 16;
}

/// An instruction (`struct bpf_insn`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Where to in the lower half, where from in the upper one, on machines with the lower byte first.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        Self { code, registers, offset, immediate }
    }
}

/// `return bpf_redirect_map(&map, ctx->rx_queue_index, XDP_PASS)`: the last is what is returned for a queue without a
/// socket (since Linux 5.3).
const fn redirect(map: i32) -> [Instruction; 6] {
    [
        // r2 = *(u32 *)(r1 + 16)
        Instruction::new(0x61, 2, 1, abi::RX_QUEUE_INDEX, 0),
        // r1 = map, in two parts
        Instruction::new(0x18, 1, abi::MAP_FD, 0, map),
        Instruction::new(0, 0, 0, 0, 0),
        // r3 = XDP_PASS
        Instruction::new(0xb7, 3, 0, 0, abi::PASS),
        // call bpf_redirect_map
        Instruction::new(0x85, 0, 0, 0, abi::REDIRECT_MAP),
        // exit
        Instruction::new(0x95, 0, 0, 0, 0),
    ]
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapUpdate {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Where in the kernel the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the driver.
    Native,
    /// Behind it, on packets that the kernel has made already.
    Generic,
}

/// A program that was loaded, and its table of sockets.
#[derive(Debug)]
pub(super) struct Program {
    program: OwnedFd,
    map: OwnedFd,
}

impl Program {
    /// For queues with numbers below `queues`.
    ///
    /// # Errors
    /// `EPERM` without CAP_BPF and CAP_NET_ADMIN, which must be those of the machine and not of a user namespace.
    pub(super) fn load(queues: u32) -> io::Result<Self> {
        let map = bpf(
            abi::MAP_CREATE,
            &MapCreate {
                map_type: abi::XSKMAP,
                key_size: 4,
                value_size: 4,
                max_entries: queues,
                map_flags: 0,
            },
        )?;
        let instructions = redirect(map.as_raw_fd());
        let license = CString::default();
        let mut name = [0; 16];
        name.iter_mut().zip(b"outboard_xdp").for_each(|(place, byte)| *place = *byte);
        let program = bpf(
            abi::PROG_LOAD,
            &ProgLoad {
                prog_type: abi::XDP,
                count: instructions.len() as u32,
                instructions: address(instructions.as_ptr()),
                license: address(license.as_ptr()),
                log_level: 0,
                log_size: 0,
                log_buf: 0,
                kern_version: 0,
                prog_flags: 0,
                name,
                ifindex: 0,
                expected_attach_type: abi::ATTACH_XDP,
            },
        )?;
        Ok(Self { program, map })
    }

    /// Runs the program on what an interface receives, as long as the descriptor is open.
    ///
    /// # Errors
    /// `EBUSY` or `EEXIST` if another program is there; `EOPNOTSUPP` or others if the driver cannot, or not now.
    pub(super) fn attach(&self, ifindex: u32, place: Place) -> io::Result<OwnedFd> {
        let flags = match place {
            Place::Native => abi::DRV_MODE,
            Place::Generic => abi::SKB_MODE,
        };
        let program = number(&self.program);
        bpf(abi::LINK_CREATE, &LinkCreate { program, ifindex, attach_type: abi::ATTACH_XDP, flags })
    }

    /// Has packets of a queue go to a socket, which is bound to it.
    ///
    /// # Errors
    /// Those of `bpf(2)`.
    pub(super) fn set(&self, queue: u32, socket: impl AsFd) -> io::Result<()> {
        let value = number(&socket);
        let (key, value) = (address(&raw const queue), address(&raw const value));
        let update = MapUpdate { map: number(&self.map), padding: 0, key, value, flags: 0 };
        call(abi::MAP_UPDATE_ELEM, &update).map(|_| ())
    }
}

fn number(fd: &impl AsFd) -> u32 {
    // An open one is not negative.
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn address<T>(of: *const T) -> u64 {
    of.expose_provenance() as u64
}

/// What makes a descriptor.
fn bpf(command: libc::c_int, attributes: &(impl IntoBytes + Immutable)) -> io::Result<OwnedFd> {
    let made = call(command, attributes)?;
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

fn call(command: libc::c_int, attributes: &(impl IntoBytes + Immutable)) -> io::Result<libc::c_int> {
    let bytes = attributes.as_bytes();
    // SAFETY: the kernel reads so many bytes, and what their addresses lead to, which our callers borrow meanwhile: none of
    // the commands keeps an address.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, bytes.as_ptr(), bytes.len()) };
    // Descriptors and errors are small.
    libc::c_int::try_from(done).ok().filter(|done| *done >= 0).ok_or_else(io::Error::last_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clang 18 makes of the line above, for a map with descriptor 7 (`llvm-objdump -d`).
    #[test]
    fn program_is_what_a_compiler_makes_of_it() {
        let expected: [u8; 48] = [
            0x61, 0x12, 0x10, 0, 0, 0, 0, 0, // r2 = *(u32 *)(r1 + 0x10)
            0x18, 0x11, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // r1 = 7 ll
            0xb7, 0x03, 0, 0, 2, 0, 0, 0, // r3 = 2
            0x85, 0, 0, 0, 51, 0, 0, 0, // call 51
            0x95, 0, 0, 0, 0, 0, 0, 0, // exit
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(redirect(7).as_bytes(), expected);
        }
    }

    #[test]
    fn program_passes_the_kernels_checks() {
        match Program::load(4) {
            Ok(program) => {
                // There is no such interface, and nothing but a socket of the kind goes into the table.
                assert!(program.attach(u32::MAX >> 1, Place::Generic).is_err());
                assert!(program.set(0, io::stderr()).is_err());
            }
            Err(error) => {
                println!("skipped: no program can be loaded here (CAP_BPF, CAP_NET_ADMIN): {error}");
            }
        }
    }
}
