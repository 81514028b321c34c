//! The front end truncates its file under a mapping, really; faults that are not ours, in child processes.
#![allow(unsafe_code)] // maps behind the crate's back, sets signal handlers
#![allow(clippy::unwrap_used)] // what fails, fails the test

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use outboard_guest_memory::{DirtyLog, MemoryMap, Region, Segment, SharedRegion, memfd, sigbus};

const PAGE: usize = 4096;

fn mapped(pages: usize) -> (MemoryMap, OwnedFd, Segment) {
    let size = (pages * PAGE) as u64;
    let fd = memfd("truncation", size).unwrap();
    let region = Region { gpa: 0, size, user_addr: 0, mmap_offset: 0 };
    let map = MemoryMap::from_table(vec![(region, fd.try_clone().unwrap())]).unwrap();
    let segment = map.segment(0, size).unwrap();
    segment.fill(0x55);
    (map, fd, segment)
}

fn truncate(fd: &OwnedFd, pages: usize) {
    rustix::fs::ftruncate(fd, (pages * PAGE) as u64).unwrap();
}

#[test]
fn write_and_read_of_truncated_memory_survive_and_are_counted() {
    let (map, fd, segment) = mapped(4);
    let before = sigbus::survived();
    truncate(&fd, 0);
    assert_eq!(map.patches(), 0);
    segment.write_from(PAGE - 2, b"over").unwrap();
    let mut got = [1; 6];
    segment.read_into(PAGE - 3, &mut got).unwrap();
    assert_eq!(&got, b"\0over\0");
    let mut got = [1; 2];
    segment.read_into(3 * PAGE, &mut got).unwrap();
    assert_eq!(got, [0; 2]);
    assert_eq!(map.patches(), 3);
    assert!(sigbus::survived() >= before + 3);
    assert_eq!(sigbus::unguarded(), 0);
}

#[test]
fn memory_that_the_file_still_has_is_kept() {
    let (map, fd, segment) = mapped(8);
    truncate(&fd, 2);
    segment.slice(5 * PAGE, PAGE).unwrap().fill(1);
    let mut got = [0; 2];
    segment.read_into(2 * PAGE - 1, &mut got).unwrap();
    assert_eq!(got, [0x55, 0]);
    assert_eq!(map.patches(), 2);
    segment.write_from(PAGE, &[9]).unwrap();
    assert_eq!(rustix::io::pread(&fd, &mut got, PAGE as u64).unwrap(), 2);
    assert_eq!(got, [9, 0x55]);
}

#[test]
fn many_truncated_pages_cost_few_faults_and_few_mappings() {
    let (map, fd, segment) = mapped(2000);
    truncate(&fd, 0);
    for page in (0..2000).step_by(2) {
        segment.write_from(page * PAGE, &[1]).unwrap();
    }
    assert!(map.patches() <= 33, "{}", map.patches());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = segment.as_ptr() as usize;
    let inside = maps.lines().filter(|line| {
        let from = line.split('-').next().unwrap();
        (start..start + segment.len()).contains(&usize::from_str_radix(from, 16).unwrap())
    });
    assert!(inside.count() <= 1, "the kernel may join it with a neighbour, so 0 is possible");
}

#[test]
fn threads_that_fault_together_all_survive() {
    let (map, fd, segment) = mapped(16);
    truncate(&fd, 0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let segment = &segment;
            scope.spawn(move || segment.fill(thread));
        }
    });
    assert!(map.patches() >= 16);
}

#[test]
fn truncated_log_and_shared_region_survive() {
    let fd = memfd("truncation", 100).unwrap();
    let log = DirtyLog::map(fd.try_clone().unwrap(), 100, 0).unwrap();
    truncate(&fd, 0);
    log.mark(0, 1);
    let fd = memfd("truncation", 100).unwrap();
    let region = SharedRegion::map(fd.try_clone().unwrap(), 100, 0).unwrap();
    truncate(&fd, 0);
    // SAFETY: within the region, which is held.
    unsafe { outboard_guest_memory::copy_to_guest(region.as_ptr(), b"alive") };
}

#[test]
fn errno_of_the_interrupted_code_is_kept() {
    let (_map, fd, segment) = mapped(1);
    truncate(&fd, 0);
    // SAFETY: this thread's own errno; one volatile write to mapped memory in between.
    let errno = unsafe {
        *libc::__errno_location() = 77;
        segment.as_ptr().write_volatile(1);
        *libc::__errno_location()
    };
    assert_eq!(errno, 77);
}

#[test]
fn kernel_access_to_truncated_memory_is_an_error_not_a_fault() {
    let (map, fd, segment) = mapped(1);
    truncate(&fd, 0);
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    rustix::io::write(&writer, b"data").unwrap();
    let iovec = segment.piece().iovec();
    // SAFETY: `reader` is open; the iovec is of mapped memory, and held.
    let read = unsafe { libc::readv(std::os::fd::AsRawFd::as_raw_fd(&reader), &raw const iovec, 1) };
    assert_eq!((read, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
    assert_eq!(map.patches(), 0);
}

// Faults and signals that are not ours. Each case is a child: this program again, with only the test `child`.

fn run(case: &str) -> ExitStatus {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env("TRUNCATION_CASE", case);
    child.output().unwrap().status
}

extern "C" fn exit_with_info(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's structure, passed on; `_exit` is async-signal-safe.
    unsafe { libc::_exit(if (*info).si_code == libc::BUS_ADRERR { 42 } else { 43 }) }
}

extern "C" fn exit_plainly(_: libc::c_int) {
    // SAFETY: async-signal-safe.
    unsafe { libc::_exit(44) }
}

fn set_handler(handler: usize, flags: libc::c_int) {
    // SAFETY: all-zero is valid, and the handlers above do nothing but exit.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// A fault in a mapping that this crate did not make.
fn foreign_fault() {
    let fd = memfd("foreign", PAGE as u64).unwrap();
    let (protection, flags) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
    // SAFETY: a new mapping, never unmapped; reading it faults, on purpose.
    unsafe {
        let start = rustix::mm::mmap(std::ptr::null_mut(), PAGE, protection, flags, &fd, 0).unwrap();
        truncate(&fd, 0);
        start.cast::<u8>().read_volatile();
    }
}

fn raise() {
    // SAFETY: a signal to this thread.
    unsafe { libc::raise(libc::SIGBUS) };
}

#[test]
fn child() {
    let Ok(case) = std::env::var("TRUNCATION_CASE") else { return };
    let (before, then) = case.split_once(' ').unwrap();
    match before {
        "rust" => {}
        "default" => set_handler(libc::SIG_DFL, 0),
        "ignore" => set_handler(libc::SIG_IGN, 0),
        "info" => set_handler(exit_with_info as *const () as usize, libc::SA_SIGINFO),
        "plain" => set_handler(exit_plainly as *const () as usize, 0),
        _ => unreachable!(),
    }
    let (_map, fd, segment) = mapped(1);
    truncate(&fd, 0);
    segment.fill(1);
    assert_eq!(sigbus::survived(), 1);
    match then {
        "fault" => foreign_fault(),
        "raise" => raise(),
        _ => unreachable!(),
    }
    // SAFETY: says that the child got here.
    unsafe { libc::_exit(7) };
}

#[test]
fn foreign_fault_ends_the_process_as_without_us() {
    for before in ["rust", "default", "ignore"] {
        assert_eq!(run(&format!("{before} fault")).signal(), Some(libc::SIGBUS), "{before}");
    }
}

#[test]
fn signal_sent_from_outside_does_what_it_did_without_us() {
    assert_eq!(run("default raise").signal(), Some(libc::SIGBUS));
    assert_eq!(run("ignore raise").code(), Some(7));
}

#[test]
fn foreign_fault_goes_to_the_handler_that_was_there() {
    assert_eq!(run("info fault").code(), Some(42));
    assert_eq!(run("info raise").code(), Some(43));
    assert_eq!(run("plain fault").code(), Some(44));
}
