//! Handlers that fail, and rings that cannot start: the back end lives on, and the front end gets to know.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use outboard_backend::{Backend, Served};
use outboard_device::Features;
use outboard_frontend::{Error, Format, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use outboard_vhost_user::Request;
use outboard_virtio_defs::features as bits;
use rig::{LONG, Script, Scripted, Server, engines};
use rustix::event::epoll;

fn wishes() -> Wishes {
    Wishes { format: Format::Split, event_idx: false, ..Wishes::default() }
}

/// A request that is `buffer`.
fn add(queue: &mut Queue, buffer: &Segment) {
    queue.add::<_, &Segment>(&[buffer], &[], 0).unwrap();
    queue.publish().unwrap();
}

#[test]
fn handler_that_panics_ends_the_connection_and_the_next_is_served() {
    for options in engines() {
        let broken = Arc::new(AtomicBool::new(true));
        let broken_now = Arc::clone(&broken);
        let device = Scripted::new(1, move |_, _| {
            let broken = Arc::clone(&broken_now);
            Script::new(move |chain, cx| {
                assert!(!broken.load(Ordering::Relaxed), "a bug in a device");
                cx.done(chain)
            })
        });
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&wishes()).unwrap();
        let mut queue = frontend.start(0, 16).unwrap();
        let buffer = frontend.allocate(16).unwrap();
        add(&mut queue, &buffer);
        assert!(matches!(queue.wait(Waiting::Interrupt, LONG), Err(Error::Disconnected)));
        let (backend, served) = server.end();
        assert!(served.is_err());

        broken.store(false, Ordering::Relaxed);
        let (server, mut frontend) = Server::with_frontend(backend);
        frontend.agree(&wishes()).unwrap();
        let mut queue = frontend.start(0, 16).unwrap();
        let buffer = frontend.allocate(16).unwrap();
        add(&mut queue, &buffer);
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        drop((queue, frontend));
        assert_eq!(server.end().1.unwrap(), Served::Closed);
    }
}

/// What each handler was made with.
fn noting(queues: u16) -> (Scripted, Arc<Mutex<Vec<Features>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let device = Scripted::new(queues, move |_, agreed| {
        noted.lock().unwrap().push(agreed);
        Script::new(|chain, cx| cx.done(chain))
    });
    (device, seen)
}

#[test]
fn handler_of_a_ring_that_could_not_start_is_made_anew() {
    let [options, _] = engines();
    let (device, seen) = noting(1);
    let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
    frontend.agree(&wishes()).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    let base = frontend.stop(&mut queue).unwrap();
    frontend.enable(0, true).unwrap();
    let (unwatchable, _held) = nested_epoll();
    frontend.ask(Request::SetVringKick { index: 0, fd: Some(unwatchable) }).unwrap_err();
    frontend.ask(Request::GetVringBase { index: 0 }).unwrap();
    let features = frontend.features();
    frontend.ask(Request::SetFeatures(features | bits::VIRTIO_F_EVENT_IDX)).unwrap();
    frontend.resume(&mut queue, base).unwrap();
    let last = *seen.lock().unwrap().last().unwrap();
    assert!(last.has(bits::VIRTIO_F_EVENT_IDX), "{last:?}");
    drop((queue, frontend));
    server.end().1.unwrap();
}

/// Epoll instances nested so deep that they cannot be watched: the outermost, and those that it holds.
fn nested_epoll() -> (OwnedFd, Vec<OwnedFd>) {
    let mut held = Vec::new();
    loop {
        let outer = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        if let Some(inner) = held.last()
            && epoll::add(&outer, inner, epoll::EventData::new_u64(0), epoll::EventFlags::IN).is_err()
        {
            return (held.pop().unwrap(), held);
        }
        held.push(outer);
    }
}

#[test]
fn handler_after_other_features_on_running_rings_is_made_with_them() {
    for options in engines() {
        let (device, seen) = noting(2);
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&wishes()).unwrap();
        let mut queues = [frontend.start(0, 16).unwrap(), frontend.start(1, 16).unwrap()];
        let event_idx = bits::VIRTIO_F_EVENT_IDX;
        let log_all = bits::VHOST_F_LOG_ALL;
        let features = frontend.features();
        // Switching the log at run time changes nothing for the handlers.
        frontend.ask(Request::SetFeatures(features | log_all)).unwrap();
        assert_eq!(seen.lock().unwrap().len(), 1);
        // A driver that begins anew, and a front end that has only disabled the rings (libkrun).
        frontend.enable(0, false).unwrap();
        frontend.enable(1, false).unwrap();
        frontend.ask(Request::SetFeatures(features | event_idx)).unwrap();
        frontend.enable(0, true).unwrap();
        frontend.enable(1, true).unwrap();
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[1].has(event_idx));
        for queue in &mut queues {
            let buffer = frontend.allocate(16).unwrap();
            add(queue, &buffer);
            assert!(queue.wait(Waiting::Polling, LONG).unwrap());
        }
        drop((queues, frontend));
        server.end().1.unwrap();
    }
}
