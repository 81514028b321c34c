//! Queues that their handler keeps: what the host has for the driver waits for chains, and the other way round.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use outboard_backend::{Backend, Options};
use outboard_device::{
    Chain, Cx, Device, DeviceError, Features, Flow, Group, Handler, Profile, QueueId, defs::DeviceId,
};
use outboard_frontend::{Format, Frontend, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use rig::{LONG, Server, engines, eventually};

/// Where the driver says how many gifts there are to be.
const ASK: QueueId = QueueId(0);
/// Where it gets them.
const GIFTS: QueueId = QueueId(1);
/// Chains that make one gift.
const EACH: usize = 3;

/// What a test sees of the handler.
#[derive(Default)]
struct Seen {
    /// How often it was asked to work.
    works: AtomicU32,
    /// How often the queue of gifts was turned on, and off.
    turned: [AtomicU32; 2],
}

/// Gives as many gifts as it is asked for. Each is the number of chains given before.
struct Giver {
    due: u32,
    given: u32,
    seen: Arc<Seen>,
}

impl Giver {
    fn give(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        let mut chains = Vec::new();
        while chains.len() < EACH {
            let Some(chain) = cx.pop(GIFTS) else {
                chains.into_iter().for_each(|chain| cx.put_back(chain));
                return false;
            };
            chains.push(chain);
        }
        for chain in &mut chains {
            chain.write_obj(&self.given).unwrap();
            self.given += 1;
        }
        cx.done_together(chains);
        true
    }
}

impl Handler for Giver {
    type Op = ();

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if queue == GIFTS {
            self.seen.turned[usize::from(!on)].fetch_add(1, Ordering::SeqCst);
            cx.keep(queue);
        }
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        assert_eq!(chain.queue(), ASK);
        self.due += chain.read_obj::<u32>().unwrap();
        cx.done(chain)
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.seen.works.fetch_add(1, Ordering::SeqCst);
        let mut gave = false;
        while self.due > 0 && self.give(cx) {
            self.due -= 1;
            gave = true;
        }
        gave
    }
}

struct Giving {
    profile: Profile,
    seen: Arc<Seen>,
}

impl Device for Giving {
    type Handler = Giver;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<Giver, DeviceError> {
        Ok(Giver { due: 0, given: 0, seen: Arc::clone(&self.seen) })
    }
}

struct Party {
    server: Server<Giving>,
    frontend: Frontend,
    ask: Queue,
    gifts: Queue,
    /// Holds the number that is asked for.
    number: Segment,
    room: Segment,
    format: Format,
    seen: Arc<Seen>,
}

impl Party {
    fn start(options: Options, format: Format) -> Self {
        let seen = Arc::default();
        let profile = Profile::new(DeviceId(42), "giver").queue("ask", 64).queue("gifts", 64);
        let device = Giving { profile, seen: Arc::clone(&seen) };
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&Wishes { format, event_idx: false, ..Wishes::default() }).unwrap();
        let (ask, gifts) = (frontend.start(0, 64).unwrap(), frontend.start(1, 64).unwrap());
        let (number, room) = (frontend.allocate(4).unwrap(), frontend.allocate(4).unwrap());
        Self { server, frontend, ask, gifts, number, room, format, seen }
    }

    /// Asks, and waits until the handler knows.
    fn ask_for(&mut self, count: u32) {
        self.number.write_from(0, &count.to_le_bytes()).unwrap();
        self.ask.add::<_, &Segment>(&[&self.number], &[], 0).unwrap();
        self.ask.publish().unwrap();
        assert!(self.ask.wait(Waiting::Interrupt, LONG).unwrap());
        self.ask.poll().unwrap().unwrap();
    }

    fn make_room(&mut self, chains: u64) {
        for _ in 0..chains {
            self.gifts.add::<&Segment, _>(&[], &[&self.room], 0).unwrap();
        }
    }

    /// Whether the device asks for kicks of the queue of gifts.
    fn is_armed(&mut self) -> bool {
        let device = self.gifts.addresses().device;
        let mut flags = [0; 2];
        // The used ring's flags, or those behind the position in the device event area.
        let at = if self.format == Format::Split { 0 } else { 2 };
        self.frontend.memory().map().read_into(device + at, &mut flags).unwrap();
        flags == [0; 2]
    }

    fn receive(&mut self, chains: usize) {
        for _ in 0..chains {
            while !self.gifts.has_used() {
                assert!(self.gifts.wait(Waiting::Interrupt, LONG).unwrap(), "no gift comes");
            }
            assert_eq!(self.gifts.poll().unwrap(), Some((0, 4)));
        }
    }

    /// Until the worker has nothing to do, and no more.
    fn settle(&self) {
        let works = || self.seen.works.load(Ordering::SeqCst);
        eventually("the worker sleeps", || {
            let before = works();
            thread::sleep(Duration::from_millis(30));
            works() == before
        });
    }

    fn end(self) {
        drop((self.ask, self.gifts, self.frontend));
        self.server.end().1.unwrap();
    }
}

fn parties() -> impl Iterator<Item = Party> {
    let formats = [Format::Split, Format::Packed];
    engines().into_iter().flat_map(move |options| formats.map(|format| Party::start(options.clone(), format)))
}

#[test]
fn kept_queue_is_kicked_only_after_a_pop_found_nothing() {
    for mut party in parties() {
        // Nobody wants them yet.
        party.make_room(2 * EACH as u64);
        party.gifts.ring().publish();
        party.settle();
        assert!(!party.is_armed());
        party.ask_for(1);
        party.receive(EACH);
        party.settle();
        assert!(!party.is_armed(), "there was enough");
        party.ask_for(3);
        party.receive(EACH);
        eventually("the handler waits for chains", || party.is_armed());
        for _ in 0..2 {
            party.make_room(EACH as u64);
            party.gifts.publish().unwrap();
            party.receive(EACH);
        }
        party.end();
    }
}

#[test]
fn kept_queue_filled_at_any_moment_wakes_its_worker() {
    const ROUNDS: u32 = 2000;
    for mut party in parties() {
        party.ask_for(ROUNDS);
        for _ in 0..ROUNDS {
            // In parts, so that some are popped and put back.
            for part in [1, 2] {
                party.make_room(part);
                party.gifts.publish().unwrap();
            }
            party.receive(EACH);
        }
        party.end();
    }
}

#[test]
fn chains_put_back_do_not_keep_the_worker_awake_and_are_used_with_the_next() {
    for mut party in parties() {
        party.make_room(2);
        party.gifts.publish().unwrap();
        party.ask_for(1);
        party.settle();
        assert!(!party.gifts.has_used());
        party.make_room(1);
        party.gifts.publish().unwrap();
        party.receive(3);
        party.end();
    }
}

#[test]
fn kept_queue_that_is_disabled_gets_nothing_and_goes_on_when_it_is_enabled() {
    for mut party in parties() {
        let seen = Arc::clone(&party.seen);
        let turned = || seen.turned.each_ref().map(|count| count.load(Ordering::SeqCst));
        assert_eq!(turned(), [1, 0]);
        party.frontend.enable(1, false).unwrap();
        assert_eq!(turned(), [1, 1]);
        party.make_room(EACH as u64);
        party.gifts.publish().unwrap();
        party.ask_for(1);
        party.settle();
        assert!(!party.gifts.has_used());
        party.frontend.enable(1, true).unwrap();
        party.frontend.enable(1, true).unwrap();
        assert_eq!(turned(), [2, 1]);
        party.receive(EACH);
        party.end();
    }
}

#[test]
fn kept_queue_that_stops_with_chains_put_back_gives_them_to_its_successor() {
    for mut party in parties() {
        party.ask_for(1);
        party.make_room(2);
        party.gifts.publish().unwrap();
        party.settle();
        let base = party.frontend.stop(&mut party.gifts).unwrap();
        party.frontend.resume(&mut party.gifts, base).unwrap();
        party.make_room(1);
        party.gifts.publish().unwrap();
        party.receive(3);
        party.end();
    }
}
