//! Rings that pause and rings that fault, with requests under way.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use outboard_backend::Backend;
use outboard_device::{FileId, HostOp, QueueId};
use outboard_frontend::{Format, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use outboard_virtqueue::Descriptor;
use rig::{LONG, Script, Scripted, Server, engines, eventually};

fn wishes() -> Wishes {
    Wishes { format: Format::Split, event_idx: false, ..Wishes::default() }
}

/// A request that gives `buffer` to the device.
fn add(queue: &mut Queue, buffer: &Segment) {
    queue.add::<&Segment, _>(&[], &[buffer], 0).unwrap();
    queue.publish().unwrap();
}

#[test]
fn ring_disabled_while_the_host_works_is_quiet_when_it_is_acknowledged() {
    let [_, options] = engines();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let reader = Arc::new(Mutex::new(Some(reader)));
    let begun = Arc::new(Mutex::new(0));
    let begun_seen = Arc::clone(&begun);
    // What the host has for a request comes when it comes.
    let device = Scripted::new(1, move |_, _| {
        let file = Arc::new(Mutex::new(FileId(0)));
        let (reader, adopted, begun) = (Arc::clone(&reader), Arc::clone(&file), Arc::clone(&begun));
        let mut script = Script::new(move |chain, cx| {
            *begun.lock().unwrap() += 1;
            cx.submit(chain, HostOp::ReadAt { file: *file.lock().unwrap(), offset: 0 }, ())
        });
        script.start = Box::new(move |cx| {
            *adopted.lock().unwrap() = cx.adopt(reader.lock().unwrap().take().unwrap()).unwrap();
        });
        script
    });
    let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
    frontend.agree(&wishes()).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    let buffers = [frontend.allocate(16).unwrap(), frontend.allocate(16).unwrap()];
    add(&mut queue, &buffers[0]);
    eventually("the request is with the host", || *begun_seen.lock().unwrap() == 1);
    let host = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        rustix::io::write(&writer, &[1; 16]).unwrap();
        writer
    });
    frontend.enable(0, false).unwrap();
    assert!(queue.has_used(), "acknowledged with a request under way: it would be missing in a snapshot");
    let writer = host.join().unwrap();
    queue.poll().unwrap().unwrap();

    // Nothing is begun while it is disabled, and what came meanwhile is served without a kick.
    add(&mut queue, &buffers[1]);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(*begun_seen.lock().unwrap(), 1);
    rustix::io::write(&writer, &[1; 16]).unwrap();
    frontend.enable(0, true).unwrap();
    assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
    drop((queue, frontend));
    server.end().1.unwrap();
}

#[test]
fn ring_disabled_while_its_handler_keeps_requests_is_acknowledged() {
    for options in engines() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&kept);
        let device = Scripted::new(1, move |_, _| {
            let keep = Arc::clone(&keep);
            Script::new(move |chain, _| {
                keep.lock().unwrap().push(chain);
                outboard_device::Flow::Next
            })
        });
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&wishes()).unwrap();
        let mut queue = frontend.start(0, 16).unwrap();
        let buffer = frontend.allocate(16).unwrap();
        add(&mut queue, &buffer);
        eventually("the request is with the handler", || !kept.lock().unwrap().is_empty());
        frontend.enable(0, false).unwrap();
        kept.lock().unwrap().drain(..).for_each(outboard_device::Chain::abandon);
        drop((queue, frontend));
        server.end().1.unwrap();
    }
}

#[test]
fn ring_whose_fault_another_queue_finds_is_reported() {
    for options in engines() {
        let device = Scripted::new(2, |_, _| {
            Script::new(|chain, cx| {
                assert!(cx.pop(QueueId(1)).is_none());
                cx.done(chain)
            })
        });
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&wishes()).unwrap();
        let mut queues = [frontend.start(0, 16).unwrap(), frontend.start(1, 16).unwrap()];
        let buffer = frontend.allocate(16).unwrap();
        thread::sleep(Duration::from_millis(50)); // until the worker sleeps
        // No buffer is there. Nobody kicks for it.
        let nowhere = Descriptor { addr: 1 << 50, len: 16, flags: Descriptor::WRITE, link: 0 };
        queues[1].add_raw(&[nowhere], 0).unwrap();
        queues[1].ring().publish();
        add(&mut queues[0], &buffer);
        assert!(queues[0].wait(Waiting::Interrupt, LONG).unwrap());
        eventually("the fault is reported", || queues[1].take_fault().unwrap());
        drop((queues, frontend));
        server.end().1.unwrap();
    }
}
