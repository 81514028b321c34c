//! Workers of several devices on one thread.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    num::NonZeroU16,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, ThreadId},
    time::Duration,
};

use outboard_backend::{Backend, Crew, Options, Placement, Polling, ServeError, Served};
use outboard_device::{Flow, SourceId};
use outboard_frontend::{Error, Format, Frontend, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use outboard_vhost_user::Request;
use rig::{LONG, Script, Scripted, Server, engines, eventually, stuff};
use rustix::event::{EventfdFlags, eventfd};

const SOURCE: SourceId = SourceId(3);

/// One thread for all, with each engine.
fn crews(polling: Polling) -> [Options; 2] {
    let one = NonZeroU16::MIN;
    engines().map(|options| Options {
        crew: Some(Crew::new("crew", one, polling, &Placement::default()).unwrap()),
        ..options
    })
}

fn pollings() -> [Polling; 3] {
    [Polling::Off, Polling::default(), Polling::Always]
}

/// A device, its front end, and a queue of the two.
struct Port {
    server: Server<Scripted>,
    frontend: Frontend,
    queue: Queue,
    buffer: Segment,
}

impl Port {
    fn open(device: Scripted, options: &Options) -> Self {
        Self::serve(Backend::new(device, options.clone()).unwrap())
    }

    fn serve(backend: Backend<Scripted>) -> Self {
        let (server, mut frontend) = Server::with_frontend(backend);
        let wishes = Wishes { format: Format::Split, event_idx: false, ..Wishes::default() };
        frontend.agree(&wishes).unwrap();
        let (queue, buffer) = (frontend.start(0, 16).unwrap(), frontend.allocate(16).unwrap());
        Self { server, frontend, queue, buffer }
    }

    fn ask(&mut self) {
        self.queue.add::<&Segment, _>(&[], &[&self.buffer], 0).unwrap();
        self.queue.publish().unwrap();
    }

    fn hear(&mut self) {
        while !self.queue.has_used() {
            assert!(self.queue.wait(Waiting::Interrupt, LONG).unwrap(), "no answer");
        }
        self.queue.poll().unwrap().unwrap();
    }

    fn talk(&mut self, rounds: usize) {
        for _ in 0..rounds {
            self.ask();
            self.hear();
        }
    }

    fn close(self) -> (Backend<Scripted>, Served) {
        drop((self.queue, self.frontend));
        let (backend, served) = self.server.end();
        (backend, served.unwrap())
    }
}

/// Answers each request, and notes where.
fn noting(threads: &Arc<Mutex<Vec<ThreadId>>>) -> Scripted {
    let threads = Arc::clone(threads);
    Scripted::new(1, move |_, _| {
        let threads = Arc::clone(&threads);
        Script::new(move |chain, cx| {
            let mut threads = threads.lock().unwrap();
            let this = thread::current().id();
            if !threads.contains(&this) {
                threads.push(this);
            }
            cx.done(chain)
        })
    })
}

fn plain() -> Scripted {
    noting(&Arc::default())
}

#[test]
fn devices_of_a_crew_are_served_by_one_thread_whatever_becomes_of_the_others() {
    for polling in pollings() {
        for options in crews(polling) {
            let threads = Arc::default();
            let mut ports: Vec<_> = (0..3).map(|_| Port::open(noting(&threads), &options)).collect();
            for _ in 0..100 {
                ports.iter_mut().for_each(Port::ask);
                ports.iter_mut().for_each(Port::hear);
            }
            // One rests, one stops, one goes and comes back.
            let last = ports.pop().unwrap();
            ports[0].frontend.enable(0, false).unwrap();
            ports[1].talk(50);
            ports[0].frontend.enable(0, true).unwrap();
            let Port { frontend, queue, .. } = &mut ports[1];
            let base = frontend.stop(queue).unwrap();
            ports[0].talk(50);
            let (backend, served) = last.close();
            assert_eq!(served, Served::Closed);
            ports[0].talk(50);
            let Port { frontend, queue, .. } = &mut ports[1];
            frontend.resume(queue, base).unwrap();
            let mut last = Port::serve(backend);
            last.talk(50);
            ports[1].talk(50);
            ports.into_iter().chain([last]).for_each(|port| drop(port.close()));
            assert_eq!(threads.lock().unwrap().len(), 1, "{polling:?}");
        }
    }
}

#[test]
fn crew_of_two_threads_shares_its_devices_out() {
    let two = NonZeroU16::new(2).unwrap();
    let crew = Crew::new("crew", two, Polling::Off, &Placement::default()).unwrap();
    for options in engines() {
        let options = Options { crew: Some(crew.clone()), ..options };
        let threads: Vec<Arc<Mutex<Vec<_>>>> = (0..4).map(|_| Arc::default()).collect();
        let mut ports: Vec<_> = threads.iter().map(|threads| Port::open(noting(threads), &options)).collect();
        ports.iter_mut().for_each(|port| port.talk(10));
        let on: Vec<_> = threads.iter().map(|threads| threads.lock().unwrap()[0]).collect();
        assert_eq!((on[0], on[1]), (on[2], on[3]));
        assert_ne!(on[0], on[1]);
        ports.into_iter().for_each(|port| drop(port.close()));
    }
}

#[test]
fn handler_that_panics_ends_its_own_connection_and_no_other() {
    for options in crews(Polling::Off) {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = Arc::clone(&broken);
        let device = Scripted::new(1, move |_, _| {
            let broken = Arc::clone(&is_broken);
            let mut held = Vec::new();
            Script::new(move |chain, cx| {
                if !broken.load(Ordering::Relaxed) {
                    return cx.done(chain);
                }
                // It goes with the handler.
                held.push(chain);
                panic!("a bug in a device");
            })
        });
        let mut other = Port::open(plain(), &options);
        let mut port = Port::open(device, &options);
        other.talk(10);
        port.ask();
        assert!(matches!(port.queue.wait(Waiting::Interrupt, LONG), Err(Error::Disconnected)));
        let (backend, served) = port.server.end();
        assert!(served.is_err());
        other.talk(10);
        broken.store(false, Ordering::Relaxed);
        let mut port = Port::serve(backend);
        port.talk(10);
        port.close();
        other.close();
    }
}

/// For good, or for a moment again and again.
#[test]
fn front_end_that_holds_up_the_others_is_gone_and_not_served_again() {
    for options in crews(Polling::Off) {
        for for_good in [true, false] {
            let mut other = Port::open(plain(), &options);
            let mut port = Port::open(plain(), &options);
            let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
            let theirs = ours.try_clone().unwrap();
            port.frontend.ask(Request::SetVringCall { index: 0, fd: Some(theirs) }).unwrap();
            stuff(&ours);
            port.ask();
            eventually("the connection is over", || {
                if !for_good && !port.server.is_over() {
                    rustix::io::read(&ours, &mut [0; 8]).unwrap();
                    stuff(&ours);
                    if port.queue.poll().unwrap().is_some() {
                        port.ask();
                    }
                }
                other.talk(1);
                port.server.is_over()
            });
            let (backend, served) = port.server.end();
            assert!(matches!(served, Err(ServeError::HeldUp)), "{served:?}");
            let (server, _stream) = Server::start(backend);
            let served = server.end().1;
            assert!(matches!(served, Err(ServeError::HeldUp)), "{served:?}");
            // Nobody else has to do with that.
            let mut third = Port::open(plain(), &options);
            third.talk(3);
            third.close();
            other.talk(3);
            other.close();
        }
    }
}

#[test]
fn crew_that_sleeps_is_woken_by_descriptors_timers_and_other_threads() {
    for options in crews(Polling::Off) {
        let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let heard = Arc::new(AtomicU64::new(0));
        let (give, tickets) = mpsc::channel();
        let (watched, hears) = (Arc::clone(&event), Arc::clone(&heard));
        let device = Scripted::new(1, move |_, _| {
            let (watched, read) = (Arc::clone(&watched), Arc::clone(&watched));
            let (hears, give) = (Arc::clone(&hears), give.clone());
            let mut waited = false;
            let mut script = Script::new(move |chain, cx| {
                waited = !waited;
                if waited {
                    return cx.wait_for(chain, Duration::from_millis(1));
                }
                give.send(cx.defer(chain, ())).unwrap();
                Flow::Next
            });
            script.start = Box::new(move |cx| cx.watch_once(watched.as_fd(), SOURCE).unwrap());
            script.event = Box::new(move |source, _| {
                if source == SOURCE {
                    rustix::io::read(&*read, &mut [0; 8]).unwrap();
                    hears.fetch_add(1, Ordering::SeqCst);
                }
            });
            script.rest = Box::new(|cx| {
                cx.rearm(SOURCE);
                true
            });
            script
        });
        let mut other = Port::open(plain(), &options);
        let mut port = Port::open(device, &options);
        for round in 1..=20 {
            port.ask();
            let ticket = tickets.recv_timeout(LONG).unwrap();
            rustix::io::write(&*event, &1_u64.to_ne_bytes()).unwrap();
            eventually("it is heard of", || heard.load(Ordering::SeqCst) == round);
            ticket.finish(Ok(0));
            port.hear();
            other.talk(1);
        }
        // One waits for its last request, the other goes on.
        port.ask();
        let ticket = tickets.recv_timeout(LONG).unwrap();
        drop((port.queue, port.frontend));
        other.talk(20);
        ticket.finish(Ok(0));
        port.server.end().1.unwrap();
        other.talk(1);
        other.close();
    }
}

/// A kick may come at any moment while the thread lies down: here, after as many different waits as it takes to meet it.
#[test]
fn kick_that_comes_while_the_thread_lies_down_is_heard() {
    for options in crews(Polling::Off) {
        let silent = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let device = Scripted::new(1, move |_, _| {
            let watched = silent.try_clone().unwrap();
            let mut script = Script::new(|chain, cx| cx.done(chain));
            script.start = Box::new(move |cx| cx.watch_once(watched.as_fd(), SOURCE).unwrap());
            script.rest = Box::new(|cx| {
                cx.rearm(SOURCE);
                true
            });
            script
        });
        let mut port = Port::open(device, &options);
        for round in 0..50_000 {
            port.ask();
            while !port.queue.has_used() {
                assert!(port.queue.wait(Waiting::Polling, LONG).unwrap(), "round {round}: no answer");
            }
            port.queue.poll().unwrap().unwrap();
            (0..round % 500).for_each(|_| std::hint::spin_loop());
        }
        port.close();
    }
}
