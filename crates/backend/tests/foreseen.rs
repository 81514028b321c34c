//! Requests that the worker has taken from the ring while the one before them is served.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::time::Duration;

use outboard_backend::Backend;
use outboard_frontend::{Format, Waiting, Wishes};
use outboard_guest_memory::Segment;
use rig::{LONG, Script, Scripted, Server, engines};

const REQUESTS: u64 = 40;

/// Every third request waits once before it is served.
#[test]
fn requests_behind_one_that_waits_keep_their_places_and_their_bytes() {
    for options in engines() {
        for format in [Format::Split, Format::Packed] {
            let device = Scripted::new(1, |_, _| {
                let (mut to_wait, mut served) = (0_u64, 0_u64);
                Script::new(move |mut chain, cx| {
                    let asked: u64 = chain.read_obj().unwrap();
                    assert_eq!(asked, served, "out of order");
                    if served == to_wait {
                        to_wait += 3;
                        return cx.wait_for(chain, Duration::from_millis(1));
                    }
                    served += 1;
                    chain.write_obj(&(asked + 1000)).unwrap();
                    cx.done(chain)
                })
            });
            let backend = Backend::new(device, options.clone()).unwrap();
            let (server, mut frontend) = Server::with_frontend(backend);
            frontend.agree(&Wishes { format, event_idx: false, ..Wishes::default() }).unwrap();
            let mut queue = frontend.start(0, 256).unwrap();
            let mut answers = Vec::new();
            for token in 0..REQUESTS {
                let question = frontend.allocate(8).unwrap();
                let answer = frontend.allocate(8).unwrap();
                question.write_from(0, &token.to_ne_bytes()).unwrap();
                queue.add(&[&question], &[&answer], token).unwrap();
                answers.push(answer);
            }
            queue.publish().unwrap();
            for token in 0..REQUESTS {
                assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
                assert_eq!(queue.poll().unwrap(), Some((token, 8)));
                assert_eq!(value(&answers[token as usize]), token + 1000);
            }
            assert_eq!(queue.poll().unwrap(), None);
            drop((queue, frontend));
            server.end().1.unwrap();
        }
    }
}

fn value(segment: &Segment) -> u64 {
    let mut bytes = [0; 8];
    segment.read_into(0, &mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}
