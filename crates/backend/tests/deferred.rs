//! Requests that other threads finish.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    io,
    sync::mpsc::{self, Receiver},
    thread,
};

use outboard_backend::{Backend, Options, Served};
use outboard_device::{Flow, Ticket};
use outboard_frontend::{Frontend, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use rig::{LONG, Script, Scripted, Server, engines, eventually};

/// A back end that gives every request's ticket away, and answers with the error or the count that comes back.
fn deferring(options: Options) -> (Server<Scripted>, Frontend, Receiver<Ticket>) {
    let (give, tickets) = mpsc::channel();
    let device = Scripted::new(1, move |_, _| {
        let give = give.clone();
        let mut script = Script::new(move |chain, cx| {
            let _ = give.send(cx.defer(chain, ()));
            Flow::Next
        });
        script.finished = Box::new(|mut chain, result, cx| {
            let said = match result {
                Ok(count) => i64::from(count),
                Err(error) => -i64::from(error.raw_os_error().unwrap()),
            };
            chain.write_obj(&said).unwrap();
            cx.done(chain)
        });
        script
    });
    let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
    frontend.agree(&Wishes { event_idx: false, ..Wishes::default() }).unwrap();
    (server, frontend, tickets)
}

fn ask(queue: &mut Queue, answer: &Segment, token: u64) {
    queue.add::<&Segment, _>(&[], &[answer], token).unwrap();
    queue.publish().unwrap();
}

fn answer(segment: &Segment) -> i64 {
    let mut bytes = [0; 8];
    segment.read_into(0, &mut bytes).unwrap();
    i64::from_le_bytes(bytes)
}

/// What the finisher wrote, and what the handler wrote behind it.
fn answers(segment: &Segment) -> [i64; 2] {
    [segment.slice(0, 8).unwrap(), segment.slice(8, 8).unwrap()].map(|half| answer(&half))
}

#[test]
fn tickets_finished_by_another_thread_wake_a_worker_that_sleeps() {
    for options in engines() {
        let (server, mut frontend, tickets) = deferring(options);
        let mut queue = frontend.start(0, 16).unwrap();
        let segment = frontend.allocate(16).unwrap();
        let finisher = thread::spawn(move || {
            for (count, mut ticket) in tickets.iter().enumerate() {
                // Every other one finds the worker asleep, most likely.
                if count % 2 == 0 {
                    thread::sleep(std::time::Duration::from_millis(1));
                }
                ticket.chain().unwrap().write_obj(&count).unwrap();
                ticket.finish(Ok(count as u32));
            }
        });
        for count in 0..200 {
            ask(&mut queue, &segment, count);
            assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
            assert_eq!(queue.poll().unwrap(), Some((count, 16)));
            assert_eq!(answers(&segment), [count as i64; 2]);
        }
        drop((queue, frontend));
        assert_eq!(server.end().1.unwrap(), Served::Closed);
        finisher.join().unwrap();
    }
}

#[test]
fn ticket_dropped_finishes_its_request_with_an_error() {
    for options in engines() {
        let (_server, mut frontend, tickets) = deferring(options);
        let mut queue = frontend.start(0, 16).unwrap();
        let segments = [frontend.allocate(8).unwrap(), frontend.allocate(8).unwrap()];
        ask(&mut queue, &segments[0], 0);
        ask(&mut queue, &segments[1], 1);
        let [first, second] = [tickets.recv().unwrap(), tickets.recv().unwrap()];
        second.finish(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        assert_eq!(queue.poll().unwrap(), Some((1, 8)));
        drop(first);
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        assert_eq!(segments.map(|segment| answer(&segment)), [-5, -28]);
    }
}

/// A back end with one request, whose ticket is out.
struct Asked {
    server: Server<Scripted>,
    frontend: Frontend,
    queue: Queue,
    /// Where its answer will be.
    segment: Segment,
    ticket: Ticket,
}

/// What the request is known by.
const TOKEN: u64 = 7;

impl Asked {
    fn of(options: Options) -> Self {
        let (server, mut frontend, tickets) = deferring(options);
        let mut queue = frontend.start(0, 16).unwrap();
        let segment = frontend.allocate(8).unwrap();
        ask(&mut queue, &segment, TOKEN);
        let ticket = tickets.recv().unwrap();
        Self { server, frontend, queue, segment, ticket }
    }
}

#[test]
fn queue_with_a_ticket_out_stops_when_it_comes_back() {
    for options in engines() {
        let Asked { server, mut frontend, mut queue, segment, ticket } = Asked::of(options);
        thread::scope(|scope| {
            let stopping = scope.spawn(|| frontend.stop(&mut queue).unwrap());
            thread::sleep(std::time::Duration::from_millis(30));
            assert!(!stopping.is_finished());
            ticket.finish(Ok(3));
            stopping.join().unwrap();
        });
        assert_eq!(queue.poll().unwrap(), Some((TOKEN, 8)));
        assert_eq!(answer(&segment), 3);
        drop((queue, frontend));
        server.end().1.unwrap();
    }
}

#[test]
fn connection_that_ends_with_a_ticket_out_waits_for_it() {
    for options in engines() {
        let Asked { server, frontend, queue, segment, ticket } = Asked::of(options);
        drop((queue, frontend));
        thread::sleep(std::time::Duration::from_millis(30));
        ticket.finish(Ok(1));
        assert_eq!(server.end().1.unwrap(), Served::Closed);
        assert_eq!(answer(&segment), 1);
    }
}

#[test]
fn ticket_that_never_comes_back_does_not_keep_the_program_from_stopping() {
    for options in engines() {
        let Asked { server, mut frontend, queue: _queue, segment: _segment, ticket } = Asked::of(options);
        server.stop.trigger();
        eventually("the program has stopped", || {
            // The answer does not matter: that there is one does.
            frontend.ask(outboard_vhost_user::Request::GetFeatures).is_err()
        });
        assert_eq!(server.end().1.unwrap(), Served::Stopped);
        ticket.finish(Ok(0));
    }
}
