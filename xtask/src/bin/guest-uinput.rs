//! Runs inside a test guest: an input device by uinput, for programs that serve the devices of a kernel.
//!
//! `guest-uinput NAME BUS:VENDOR:PRODUCT:VERSION ABILITY...`
//!
//! - An ability is `key:FIRST[-LAST]`, `rel:...`, `abs:AXIS=MIN..MAX`, `led:...`, `prop:...`, with codes in hexadecimal.
//! - Says its node in /dev/input, and then what is switched on or off by whoever has opened it.
//! - Makes every event that it is told, a word each: `TYPE/CODE/VALUE`, the first two in hexadecimal. The word `made` it says
//!   back when it comes to it; with `unplug` it is gone.
//!
//! Needs the standard library only: it is built by the compiler alone.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(unsafe_code, reason = "the standard library does not know the kernel's requests")]

use std::fs::File;
use std::io::{self, BufRead, Error, Read, Write};
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Requests of `<linux/uinput.h>`.
const UI_DEV_CREATE: u64 = 0x5501;
const UI_DEV_DESTROY: u64 = 0x5502;
const UI_DEV_SETUP: u64 = 0x405c_5503;
const UI_ABS_SETUP: u64 = 0x401c_5504;
const UI_SET_EVBIT: u64 = 0x4004_5564;
const UI_GET_SYSNAME: u64 = 0x8020_552c;
/// Types of events, each with the request that adds a code.
const KINDS: [(&str, u16, u64); 4] =
    [("key", 1, 0x4004_5565), ("rel", 2, 0x4004_5566), ("abs", 3, 0x4004_5567), ("led", 0x11, 0x4004_5569)];
const UI_SET_PROPBIT: u64 = 0x4004_556e;

/// `struct uinput_setup`.
#[repr(C)]
struct Setup {
    ids: [u16; 4],
    name: [u8; 80],
    effects: u32,
}

/// `struct uinput_abs_setup`.
#[repr(C)]
struct Axis {
    code: u16,
    value: i32,
    min: i32,
    max: i32,
    fuzz: i32,
    flat: i32,
    resolution: i32,
}

unsafe extern "C" {
    fn ioctl(file: i32, request: u64, ...) -> i32;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", arguments.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &[String]) -> io::Result<()> {
    let [name, ids, abilities @ ..] = arguments else { return Err(Error::other("a name and its ids")) };
    let device = File::options().read(true).write(true).open("/dev/uinput")?;
    for ability in abilities {
        add(&device, ability)?;
    }
    let mut setup = Setup { ids: [0; 4], name: [0; 80], effects: 0 };
    for (id, text) in setup.ids.iter_mut().zip(ids.split(':')) {
        *id = hex(text)?;
    }
    for (place, byte) in setup.name.iter_mut().zip(name.bytes()) {
        *place = byte;
    }
    request(&device, UI_DEV_SETUP, &mut setup)?;
    plain(&device, UI_DEV_CREATE, 0)?;
    println!("{}", node(&device)?);

    let mut lights = device.try_clone()?;
    thread::spawn(move || -> io::Result<()> {
        let mut event = [0; 24];
        loop {
            lights.read_exact(&mut event)?;
            let [.., k0, k1, c0, c1, v0, v1, v2, v3] = event;
            let (kind, code) = (u16::from_ne_bytes([k0, k1]), u16::from_ne_bytes([c0, c1]));
            println!("{kind:x}/{code:x}/{}", i32::from_ne_bytes([v0, v1, v2, v3]));
        }
    });
    let mut events = &device;
    for line in io::stdin().lock().lines() {
        for word in line?.split_whitespace() {
            match word {
                "made" => {
                    println!("{word}");
                    continue;
                }
                "unplug" => return plain(&device, UI_DEV_DESTROY, 0),
                _ => {}
            }
            let mut parts = word.split('/');
            let mut part = || parts.next().ok_or_else(|| Error::other("TYPE/CODE/VALUE"));
            let (kind, code) = (hex(part()?)?.to_ne_bytes(), hex(part()?)?.to_ne_bytes());
            let value = part()?.parse::<i32>().map_err(Error::other)?.to_ne_bytes();
            // Behind its time, which the kernel sets.
            events.write_all(&[&[0; 16][..], &kind, &code, &value].concat())?;
        }
    }
    plain(&device, UI_DEV_DESTROY, 0)
}

/// Lets the device do what a word says.
fn add(device: &File, ability: &str) -> io::Result<()> {
    let (what, rest) = ability.split_once(':').unwrap_or((ability, ""));
    let (codes, range) = rest.split_once('=').unwrap_or((rest, ""));
    let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
    let bit = match KINDS.iter().find(|(kind, ..)| *kind == what) {
        Some(&(_, kind, bit)) => {
            plain(device, UI_SET_EVBIT, kind.into())?;
            bit
        }
        None if what == "prop" => UI_SET_PROPBIT,
        None => return Err(Error::other("no such ability")),
    };
    for code in hex(first)?..=hex(last)? {
        plain(device, bit, code.into())?;
    }
    if let Some((min, max)) = range.split_once("..") {
        let number = |text: &str| text.parse::<i32>().map_err(Error::other);
        let (code, min, max) = (hex(first)?, number(min)?, number(max)?);
        let mut axis = Axis { code, value: 0, min, max, fuzz: 1, flat: 2, resolution: 3 };
        request(device, UI_ABS_SETUP, &mut axis)?;
    }
    Ok(())
}

/// Where others find the device.
fn node(device: &File) -> io::Result<String> {
    let mut name = [0_u8; 32];
    request(device, UI_GET_SYSNAME, &mut name)?;
    let name = String::from_utf8_lossy(&name);
    let directory = format!("/sys/devices/virtual/input/{}", name.trim_end_matches('\0'));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        for entry in std::fs::read_dir(&directory)? {
            let node = format!("/dev/input/{}", entry?.file_name().to_string_lossy());
            if node.contains("event") && std::fs::exists(&node)? {
                return Ok(node);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(Error::other("it has no node"))
}

fn hex(text: &str) -> io::Result<u16> {
    u16::from_str_radix(text, 16).map_err(Error::other)
}

/// A request with a number.
fn plain(device: &File, number: u64, value: i32) -> io::Result<()> {
    // SAFETY: such a request takes a number, or nothing.
    answered(unsafe { ioctl(device.as_raw_fd(), number, value) })
}

/// A request with a structure of its own, which it reads or fills.
fn request<T>(device: &File, number: u64, with: &mut T) -> io::Result<()> {
    // SAFETY: each request is passed the structure that it is for, and keeps no pointer to it.
    answered(unsafe { ioctl(device.as_raw_fd(), number, &raw mut *with) })
}

fn answered(status: i32) -> io::Result<()> {
    if status < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
