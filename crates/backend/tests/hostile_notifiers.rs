//! Call descriptors whose front end does its worst: a write to them would wait for ever.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::os::fd::OwnedFd;

use outboard_backend::Backend;
use outboard_frontend::{Format, Wishes};
use outboard_guest_memory::Segment;
use outboard_vhost_user::Request;
use rig::{Script, Scripted, Server, engines, eventually, stuff};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

/// A call descriptor that does not block when it is handed over, and what it is stuffed through.
fn calls() -> [(&'static str, OwnedFd, OwnedFd); 4] {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("call");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let listener = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    let named = open(&path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
    // The other ends stay open: with somebody who does not read.
    std::mem::forget((reader, far, listener));
    [("eventfd", event), ("pipe", writer), ("socket", near.into()), ("named pipe", named)]
        .map(|(name, fd)| (name, fd.try_clone().unwrap(), fd))
}

#[test]
fn call_that_is_full_and_blocks_holds_neither_a_stop_nor_the_end() {
    for options in engines() {
        for (name, ours, theirs) in calls() {
            let device = Scripted::new(1, |_, _| Script::new(|chain, cx| cx.done(chain)));
            let (server, mut frontend) =
                Server::with_frontend(Backend::new(device, options.clone()).unwrap());
            let wishes = Wishes { format: Format::Split, event_idx: false, ..Wishes::default() };
            frontend.agree(&wishes).unwrap();
            let mut queue = frontend.start(0, 16).unwrap();
            frontend.ask(Request::SetVringCall { index: 0, fd: Some(theirs) }).unwrap();
            stuff(&ours);
            let buffer = frontend.allocate(16).unwrap();
            queue.add::<&Segment, _>(&[], &[&buffer], 0).unwrap();
            queue.publish().unwrap();
            eventually("the request is served", || queue.has_used());
            println!("{name}");
            frontend.stop(&mut queue).unwrap();
            frontend.resume(&mut queue, outboard_virtqueue::Base::split(1)).unwrap();
            drop((queue, frontend));
            server.end().1.unwrap();
        }
    }
}
