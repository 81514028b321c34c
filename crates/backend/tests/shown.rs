//! What a driver sees of a batch that is still being served.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::sync::mpsc;

use outboard_backend::Backend;
use outboard_frontend::{Format, Waiting, Wishes};
use outboard_virtqueue::{Descriptor, driver::Buffer};
use rig::{LONG, Script, Scripted, Server, engines, eventually};

const REQUESTS: u64 = 40;
/// The request that is served only when the driver has seen some of those before it.
const HELD: u64 = 30;

#[test]
fn driver_sees_the_first_of_a_batch_and_is_called_before_the_last_is_served() {
    for options in engines() {
        for format in [Format::Split, Format::Packed] {
            let (seen, go) = mpsc::channel();
            let mut go = Some(go);
            let device = Scripted::new(1, move |_, _| {
                let (go, mut served) = (go.take().unwrap(), 0);
                Script::new(move |mut chain, cx| {
                    served += 1;
                    if served == HELD {
                        go.recv_timeout(LONG).unwrap();
                    }
                    chain.write_obj(&served).unwrap();
                    cx.done(chain)
                })
            });
            let backend = Backend::new(device, options.clone()).unwrap();
            let (server, mut frontend) = Server::with_frontend(backend);
            frontend.agree(&Wishes { format, event_idx: false, ..Wishes::default() }).unwrap();
            let mut queue = frontend.start(0, 256).unwrap();
            let answer = frontend.allocate(8).unwrap();
            for token in 0..REQUESTS {
                queue.add::<&_, _>(&[], &[&answer], token).unwrap();
            }
            queue.publish().unwrap();
            assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
            let mut done = 0;
            let mut until = |count| {
                eventually("requests are done", || {
                    while let Some(came) = queue.poll().unwrap() {
                        assert_eq!(came, (done, 8));
                        done += 1;
                    }
                    done >= count
                });
            };
            until(1);
            seen.send(()).unwrap();
            until(REQUESTS);
            drop((queue, frontend));
            server.end().1.unwrap();
        }
    }
}

#[test]
fn driver_is_called_once_for_a_long_batch_that_is_followed_by_another() {
    for options in engines() {
        for format in [Format::Split, Format::Packed] {
            let device = Scripted::new(1, |_, _| Script::new(|chain, cx| cx.done(chain)));
            let backend = Backend::new(device, options.clone()).unwrap();
            let (server, mut frontend) = Server::with_frontend(backend);
            frontend.agree(&Wishes { format, event_idx: false, ..Wishes::default() }).unwrap();
            let mut queue = frontend.start(0, 256).unwrap();
            let question = frontend.allocate(8).unwrap();
            for token in 0..128 {
                queue.add::<_, &_>(&[&question], &[], token).unwrap();
            }
            queue.arm().unwrap();
            queue.publish().unwrap();
            let mut done = 0;
            eventually("requests are done", || {
                while queue.poll().unwrap().is_some() {
                    done += 1;
                }
                done == 128
            });
            drop(frontend);
            server.end().1.unwrap();
            queue.arm().unwrap();
            assert_eq!(queue.notifications().calls, 3, "after the first 16 of each batch, and at the end");
        }
    }
}

#[test]
fn chains_of_many_pieces_do_not_keep_the_next_queue_waiting() {
    const MANY: u32 = 5000;
    for options in engines() {
        let (published, go) = mpsc::channel();
        let (noted, notes) = mpsc::channel();
        let mut go = Some((go, noted));
        let device = Scripted::new(2, move |_, _| {
            let ((go, noted), mut first) = (go.take().unwrap(), true);
            Script::new(move |chain, cx| {
                if std::mem::take(&mut first) {
                    go.recv_timeout(LONG).unwrap();
                }
                noted.send(chain.queue().0).unwrap();
                cx.done(chain)
            })
        });
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&Wishes { format: Format::Split, event_idx: false, ..Wishes::default() }).unwrap();
        let [mut greedy, mut other] = [0, 1].map(|index| frontend.start(index, 64).unwrap());
        let table = frontend.allocate(MANY as usize * Descriptor::SIZE).unwrap();
        let byte = Buffer { len: 1, ..Buffer::from(&table) };
        for at in 0..MANY {
            let flags = if at + 1 < MANY { Descriptor::NEXT } else { 0 };
            let mut entry = byte.gpa.to_le_bytes().to_vec();
            entry.extend(byte.len.to_le_bytes());
            entry.extend(flags.to_le_bytes());
            entry.extend((at as u16 + 1).to_le_bytes());
            table.write_from(at as usize * Descriptor::SIZE, &entry).unwrap();
        }
        let Buffer { gpa: addr, len } = Buffer::from(&table);
        greedy.add::<_, &_>(&[&table.slice(0, 1).unwrap()], &[], 0).unwrap();
        for token in 1..=10 {
            greedy.add_raw(&[Descriptor { addr, len, flags: Descriptor::INDIRECT, link: 0 }], token).unwrap();
        }
        greedy.publish().unwrap();
        other.add::<_, &_>(&[&table.slice(0, 1).unwrap()], &[], 0).unwrap();
        other.publish().unwrap();
        published.send(()).unwrap();
        let order: Vec<u16> = (0..12).map(|_| notes.recv_timeout(LONG).unwrap()).collect();
        let turn = order.iter().position(|queue| *queue == 1).unwrap();
        assert!(turn <= 3, "{order:?}");
        drop((greedy, other, frontend));
        server.end().1.unwrap();
    }
}
