//! Runs inside a test guest: connections by AF_VSOCK, with content that both sides can compute, of which every byte is
//! compared.
//!
//! - `cid`: prints the guest's context id.
//! - `copy KIND CID PORT BYTES`: sends so many bytes to somebody who gives them back, and compares. KIND: `stream` or
//!   `seqpacket`.
//! - `half CID PORT BYTES`: the same with somebody who answers when he has got everything, which he learns by the end of
//!   that half.
//! - `many CID PORT COUNT`: so many connections, one after the other, each with some bytes there and back.
//! - `hold CID PORT`: says "connected", waits on a connection on which nothing comes, and says "reset" or "ended".
//! - `refused CID PORT`: the connection is refused, and that within a second.
//! - `serve KIND PORT`: says "listening", and gives back what connections bring, until it is killed.
//!
//! Exit status 0 says that all was right. Needs the standard library only: it is built by the compiler alone.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(unsafe_code, reason = "the standard library does not know the family")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const AF_VSOCK: i32 = 40;
const STREAM: i32 = 1;
const SEQPACKET: i32 = 5;
const SHUT_WR: i32 = 1;
/// `IOCTL_VM_SOCKETS_GET_LOCAL_CID`.
const LOCAL_CID: u64 = 0x7b9;
/// Bytes that are handed to a socket at once, or in one message.
const PIECE: usize = 60_000;

/// `struct sockaddr_vm` of the kernel.
#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn connect(socket: i32, address: *const Address, len: u32) -> i32;
    fn bind(socket: i32, address: *const Address, len: u32) -> i32;
    fn listen(socket: i32, backlog: i32) -> i32;
    fn accept(socket: i32, address: *mut Address, len: *mut u32) -> i32;
    fn shutdown(socket: i32, how: i32) -> i32;
    fn ioctl(file: i32, request: u64, ...) -> i32;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["cid"] => cid().map(|cid| println!("{cid}")),
        ["copy", kind, cid, port, bytes] => copy(kind, number(cid), number(port), number(bytes) as usize),
        ["half", cid, port, bytes] => half(number(cid), number(port), number(bytes) as usize),
        ["many", cid, port, count] => many(number(cid), number(port), number(count)),
        ["hold", cid, port] => hold(number(cid), number(port)),
        ["refused", cid, port] => refused(number(cid), number(port)),
        ["serve", kind, port] => serve(kind_of(kind), number(port)),
        _ => Err(io::Error::other("cid, copy, half, many, hold, refused or serve")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn kind_of(name: &str) -> i32 {
    if name == "seqpacket" { SEQPACKET } else { STREAM }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or(u32::MAX)
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn address(cid: u32, port: u32) -> Address {
    Address { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
}

fn cid() -> io::Result<u32> {
    let file = File::open("/dev/vsock")?;
    let mut cid = 0_u32;
    // SAFETY: the call writes a number of 32 bits.
    checked(unsafe { ioctl(file.as_raw_fd(), LOCAL_CID, &raw mut cid) })?;
    Ok(cid)
}

fn new_socket(kind: i32) -> io::Result<File> {
    // SAFETY: takes no pointer; the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(checked(socket(AF_VSOCK, kind, 0))?) })
}

fn dial(kind: i32, cid: u32, port: u32) -> io::Result<File> {
    let socket = new_socket(kind)?;
    let address = address(cid, port);
    // SAFETY: the address is as long as is said.
    checked(unsafe { connect(socket.as_raw_fd(), &raw const address, size_of::<Address>() as u32) })?;
    Ok(socket)
}

/// The byte at a place.
fn content(at: usize) -> u8 {
    ((at as u32).wrapping_mul(2_654_435_761) >> 13) as u8
}

fn copy(kind: &str, cid: u32, port: u32, bytes: usize) -> io::Result<()> {
    let kind = kind_of(kind);
    let mut socket = dial(kind, cid, port)?;
    let mut receiver = socket.try_clone()?;
    let reader = std::thread::spawn(move || {
        let mut room = vec![0; PIECE * 2];
        let mut at = 0;
        while at < bytes {
            let len = receiver.read(&mut room)?;
            if len == 0 {
                return Err(io::Error::other(format!("the end came after {at} bytes")));
            }
            if kind == SEQPACKET && len != PIECE.min(bytes - at) {
                return Err(io::Error::other(format!("a message of {len} bytes after {at}")));
            }
            compare(room.get(..len).unwrap_or_default(), at)?;
            at += len;
        }
        Ok(())
    });
    let all: Vec<u8> = (0..bytes).map(content).collect();
    for piece in all.chunks(PIECE) {
        socket.write_all(piece)?;
    }
    reader.join().map_err(|_| io::Error::other("the reader failed"))?
}

fn compare(got: &[u8], at: usize) -> io::Result<()> {
    match got.iter().enumerate().find(|(place, byte)| **byte != content(at + place)) {
        Some((place, _)) => Err(io::Error::other(format!("byte {} is another", at + place))),
        None => Ok(()),
    }
}

fn half(cid: u32, port: u32, bytes: usize) -> io::Result<()> {
    let mut socket = dial(STREAM, cid, port)?;
    let all: Vec<u8> = (0..bytes).map(content).collect();
    socket.write_all(&all)?;
    // SAFETY: takes no pointer.
    checked(unsafe { shutdown(socket.as_raw_fd(), SHUT_WR) })?;
    let mut got = Vec::new();
    socket.read_to_end(&mut got)?;
    compare(&got, 0)?;
    if got.len() == bytes { Ok(()) } else { Err(io::Error::other(format!("{} bytes came", got.len()))) }
}

fn many(cid: u32, port: u32, count: u32) -> io::Result<()> {
    for round in 0..count {
        let mut socket = dial(STREAM, cid, port)?;
        let sent = round.to_le_bytes();
        socket.write_all(&sent)?;
        let mut got = [0; 4];
        socket.read_exact(&mut got)?;
        if got != sent {
            return Err(io::Error::other(format!("connection {round} gave back something else")));
        }
    }
    Ok(())
}

fn hold(cid: u32, port: u32) -> io::Result<()> {
    let mut socket = dial(STREAM, cid, port)?;
    println!("connected");
    match socket.read(&mut [0; 1]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => println!("reset"),
        Err(error) => return Err(error),
        Ok(0) => println!("ended"),
        Ok(len) => return Err(io::Error::other(format!("{len} bytes came"))),
    }
    Ok(())
}

fn refused(cid: u32, port: u32) -> io::Result<()> {
    let start = Instant::now();
    match dial(STREAM, cid, port) {
        Ok(_) => Err(io::Error::other("it was accepted")),
        Err(error) if start.elapsed() < Duration::from_secs(1) => {
            println!("{error}");
            Ok(())
        }
        Err(error) => Err(io::Error::other(format!("{error}, but after {:?}", start.elapsed()))),
    }
}

fn serve(kind: i32, port: u32) -> io::Result<()> {
    let socket = new_socket(kind)?;
    let address = address(u32::MAX, port);
    // SAFETY: the address is as long as is said.
    checked(unsafe { bind(socket.as_raw_fd(), &raw const address, size_of::<Address>() as u32) })?;
    // SAFETY: takes no pointer.
    checked(unsafe { listen(socket.as_raw_fd(), 16) })?;
    println!("listening");
    loop {
        // SAFETY: no address is asked for; the descriptor is new and nobody else's.
        let accepted = unsafe { accept(socket.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) };
        // SAFETY: likewise.
        let mut stream = unsafe { File::from_raw_fd(checked(accepted)?) };
        std::thread::spawn(move || {
            let mut room = vec![0; PIECE];
            while let Ok(len @ 1..) = stream.read(&mut room) {
                if stream.write_all(room.get(..len).unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
    }
}
