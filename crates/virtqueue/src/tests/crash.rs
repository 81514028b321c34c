//! A back end that dies between any two of its stores: its successor executes each request that was not returned,
//! in the order of taking, and the driver sees each returned once.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Dice, Rig, Setup, both, serve};
use crate::crash::{Killed, exempt, kill_after, live};
use crate::{Base, Chain, Format, InflightError, RingError, Virtqueue};

const REQUESTS: u64 = 30;

/// What a request is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Simple,
    Cut,
    /// One buffer, to be read.
    Sent,
    /// One buffer, to be written.
    Received,
}

impl Kind {
    fn of(token: u64) -> Self {
        [Self::Simple, Self::Cut, Self::Sent, Self::Cut, Self::Received, Self::Received, Self::Sent]
            [token as usize % 7]
    }
}

/// The driver's view: what it added, and how often it came back.
struct Story {
    rig: Rig,
    dice: Dice,
    added: u64,
    returned: BTreeMap<u64, u32>,
    /// Requests that the driver is to see all at once, or not at all.
    units: Vec<Vec<u64>>,
    /// Tokens in the order in which they were first taken.
    taken: Vec<u64>,
    executed: HashMap<u64, u32>,
    /// How many were served without a chain.
    at_once: u32,
}

impl Story {
    fn new(setup: Setup, seed: u64) -> Self {
        Self {
            rig: Rig::tracked(setup),
            dice: Dice::new(seed),
            added: 0,
            returned: BTreeMap::new(),
            units: Vec::new(),
            taken: Vec::new(),
            executed: HashMap::new(),
            at_once: 0,
        }
    }

    /// The driver looks for returned requests, and adds others in their place. It does not die.
    fn drive(&mut self) {
        exempt(|| {
            while let Some((token, len)) = self.rig.driver.poll_used().unwrap() {
                let sent = Kind::of(token) == Kind::Sent;
                assert!(len == 8 && !sent || (len == 0 && (sent || self.rig.setup.in_order)), "length {len}");
                *self.returned.entry(token).or_default() += 1;
            }
            for unit in &self.units {
                let shown = unit.iter().filter(|token| self.returned.contains_key(token)).count();
                assert!(shown == 0 || shown == unit.len(), "{shown} of {unit:?} are shown");
            }
            while self.added < REQUESTS && self.rig.driver.free() >= 4 {
                match Kind::of(self.added) {
                    Kind::Simple => self.rig.add_simple(self.added),
                    Kind::Cut => self.add_cut(),
                    kind => self.add_single(kind == Kind::Sent),
                }
                self.added += 1;
            }
            self.rig.driver.publish();
        });
    }

    /// A request in four buffers.
    fn add_cut(&mut self) {
        let (token, at) = (self.added, self.added * 64);
        let readable = [self.rig.buffer(at, 3), self.rig.buffer(at + 3, 5)];
        let writable = [self.rig.buffer(at + 16, 1), self.rig.buffer(at + 17, 7)];
        self.rig.write(self.rig.buffer(at, 8), &token.to_le_bytes());
        self.rig.driver.add(&readable, &writable, token).unwrap();
    }

    /// A request in one buffer, to be read or to be written.
    fn add_single(&mut self, sent: bool) {
        let (token, at) = (self.added, self.added * 64);
        let buffer = self.rig.buffer(if sent { at } else { at + 16 }, 8);
        let (readable, writable): (&[_], &[_]) = if sent { (&[buffer], &[]) } else { (&[], &[buffer]) };
        if sent {
            self.rig.write(buffer, &token.to_le_bytes());
        }
        self.rig.driver.add(readable, writable, token).unwrap();
    }

    fn finished(&self) -> bool {
        self.returned.len() as u64 == REQUESTS
    }

    /// One life of a back end: recovers, then serves until all is done, or it is killed.
    fn live(&mut self, base: Base, held: &mut Vec<(u64, Chain)>) {
        let mut queue = self.rig.config(base).activate().unwrap();
        // What the predecessor had taken and not returned comes first, in the order in which it was taken.
        let mut expected: Vec<u64> = self.taken.iter().copied().filter(|token| !self.shown(token)).collect();
        expected.reverse();
        for round in 0.. {
            self.drive();
            if self.finished() {
                break;
            }
            assert!(round < 10_000, "returned {:?} only", self.returned.keys());
            for _ in 0..self.dice.roll(4) {
                let next = expected.last().copied().unwrap_or(self.taken.len() as u64);
                let Some((token, chain)) = self.take(&mut queue, next) else { break };
                if let Some(first) = expected.pop() {
                    assert_eq!(token, first, "recovered out of order");
                } else {
                    assert!(!self.taken.contains(&token), "{token} taken twice");
                    self.taken.push(token);
                }
                *self.executed.entry(token).or_default() += 1;
                held.extend(chain.map(|chain| (token, chain)));
            }
            self.complete_some(&mut queue, held);
            if self.dice.roll(3) > 0 {
                queue.publish();
            }
        }
        assert!(expected.is_empty(), "never recovered: {expected:?}");
    }

    /// Takes a request, which is to be the one with this token, in one way or another: one that is not done with by that
    /// comes as a chain.
    fn take(&mut self, queue: &mut Virtqueue, next: u64) -> Option<(u64, Option<Chain>)> {
        let way = self.dice.roll(4);
        let mut front = [0; 8];
        if way == 0 && queue.put(&!next, &[]) {
            assert_eq!(Kind::of(next), Kind::Received);
            self.at_once += 1;
            return Some((next, None));
        }
        if way < 3
            && let Some(glanced) = queue.glance(&mut front)
        {
            assert_eq!((Kind::of(next), glanced.len()), (Kind::Sent, 8));
            if way == 1 {
                return Some((u64::from_le_bytes(front), queue.open(glanced)));
            }
            queue.dismiss(glanced);
            self.at_once += 1;
            return Some((u64::from_le_bytes(front), None));
        }
        let mut chain = queue.pop().unwrap()?;
        let token = match Kind::of(next) {
            Kind::Simple | Kind::Cut => serve(&mut chain),
            Kind::Sent => chain.read_obj().unwrap(),
            Kind::Received => {
                assert_eq!((chain.readable_len(), chain.writable_len()), (0, 8));
                chain.write_obj(&!next).unwrap();
                next
            }
        };
        Some((token, Some(chain)))
    }

    fn complete_some(&mut self, queue: &mut Virtqueue, held: &mut Vec<(u64, Chain)>) {
        let count = self.dice.roll(4).min(held.len());
        if self.dice.roll(2) == 0 {
            let (tokens, chains): (Vec<u64>, Vec<Chain>) = held.drain(..count).unzip();
            // In order, one returned before may come in between.
            self.units.extend((!self.rig.setup.in_order).then_some(tokens));
            queue.complete_together(chains);
            return;
        }
        for _ in 0..count {
            let (_, chain) = held.swap_remove(self.dice.roll(held.len()));
            queue.complete(chain);
        }
    }

    /// Whether the driver has seen this request returned. It looks first.
    fn shown(&self, token: &u64) -> bool {
        self.returned.contains_key(token)
    }
}

/// Lives, each killed after so many stores; the last one is not. Returns whether all of the kills happened.
fn tell(setup: Setup, seed: u64, kills: &[u32]) -> bool {
    let mut story = Story::new(setup, seed);
    let mut base = story.rig.driver.fresh_base();
    let mut all = true;
    for kill in kills.iter().copied().map(Some).chain([None]) {
        // The driver goes on while there is no back end: what was shown is seen, and its room used again. The next
        // back end need not return together what this one would have.
        story.drive();
        story.units.clear();
        let mut held = Vec::new();
        let ended = catch_unwind(AssertUnwindSafe(|| {
            kill.map_or_else(live, kill_after);
            story.live(base, &mut held);
            live();
        }));
        live();
        held.into_iter().for_each(|(_, chain)| chain.abandon());
        match ended {
            Err(payload) if payload.is::<Killed>() => {}
            Err(payload) => std::panic::resume_unwind(payload),
            Ok(()) => all &= kill.is_none(),
        }
        // As QEMU has it: the used index if split, a stale base if packed. Records override both.
        base = match setup.format {
            Format::Split => story.rig.driver.base_for_restart(),
            Format::Packed => base,
        };
    }
    story.drive();
    for token in 0..REQUESTS {
        assert_eq!(story.returned.get(&token), Some(&1), "request {token}, {setup:?}, {seed}, {kills:?}");
        assert!(story.executed.contains_key(&token));
        if Kind::of(token) == Kind::Sent {
            continue;
        }
        let answer = story.rig.read(story.rig.buffer(token % 512 * 64 + 16, 8));
        assert_eq!(answer, (!token).to_le_bytes());
    }
    assert_eq!(story.rig.driver.outstanding(), 0);
    assert!(story.at_once > 0);
    all
}

fn setups(format: Format) -> impl Iterator<Item = Setup> {
    let size = if format == Format::Split { 8 } else { 7 };
    [(false, 0), (true, 0), (false, 4)].into_iter().map(move |(in_order, table_entries)| Setup {
        in_order,
        table_entries,
        ..Setup::new(format, size)
    })
}

both! { kill_at_every_store_loses_and_repeats_nothing second_kill_while_recovering_loses_nothing
skipped_drain_hands_requests_to_the_next clean_stop_takes_the_base_again skipped_drain_with_one_put_back_keeps_the_order
records_of_another_size_with_requests_are_refused records_without_requests_suit_a_new_ring
random_records_never_panic }

fn kill_at_every_store_loses_and_repeats_nothing(format: Format) {
    for setup in setups(format) {
        for seed in 1..4 {
            let kills = (0..).take_while(|&kill| tell(setup, seed, &[kill])).count();
            assert!(kills > 100, "{kills} stores only");
        }
    }
}

fn second_kill_while_recovering_loses_nothing(format: Format) {
    for setup in setups(format) {
        for first in (0..300).step_by(7) {
            for second in 0..24 {
                tell(setup, 9, &[first, second, second / 2]);
            }
        }
    }
}

fn skipped_drain_hands_requests_to_the_next(format: Format) {
    let mut rig = Rig::tracked(Setup::new(format, 8));
    (0..3).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chains: Vec<Chain> = (0..3).map(|_| queue.pop().unwrap().unwrap()).collect();
    queue.complete(chains.remove(1));
    let base = queue.stop();
    chains.into_iter().for_each(Chain::abandon);
    assert_eq!(rig.driver.poll_used().unwrap().unwrap().0, 1);

    let mut queue = rig.config(base).activate().unwrap();
    assert!(queue.has_available());
    for token in [0, 2] {
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(serve(&mut chain), token);
        queue.complete(chain);
    }
    assert!(queue.pop().unwrap().is_none());
    queue.publish();
    assert_eq!(rig.driver.poll_used().unwrap(), Some((0, 8)));
    assert_eq!(rig.driver.poll_used().unwrap(), Some((2, 8)));
    assert_eq!(queue.stop(), rig.driver.base_for_restart());
}

fn skipped_drain_with_one_put_back_keeps_the_order(format: Format) {
    let mut rig = Rig::tracked(Setup::new(format, 8));
    (0..4).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chains: Vec<Chain> = (0..3).map(|_| queue.pop().unwrap().unwrap()).collect();
    queue.put_back(chains.remove(2));
    let base = queue.stop();
    chains.into_iter().for_each(Chain::abandon);
    let mut queue = rig.config(base).activate().unwrap();
    for token in 0..4 {
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(serve(&mut chain), token);
        queue.complete(chain);
    }
    assert!(queue.pop().unwrap().is_none());
    queue.stop();
    for token in 0..4 {
        assert_eq!(rig.driver.poll_used().unwrap(), Some((token, 8)));
    }
}

fn clean_stop_takes_the_base_again(format: Format) {
    let mut rig = Rig::tracked(Setup::new(format, 8));
    rig.add_simple(0);
    rig.driver.publish();
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    queue.put_back(chain);
    let base = queue.stop();
    assert_eq!(base, rig.driver.fresh_base(), "what was put back is in the ring again");
    let mut queue = rig.config(base).activate().unwrap();
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain);
    queue.publish();
    assert_eq!(rig.driver.poll_used().unwrap(), Some((0, 0)));
}

fn records_of_another_size_with_requests_are_refused(format: Format) {
    let mut rig = Rig::tracked(Setup::new(format, 8));
    rig.add_simple(0);
    rig.driver.publish();
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    let base = queue.stop();
    chain.abandon();
    let mut config = rig.config(base);
    config.size = 4;
    let error = config.activate().unwrap_err();
    assert_eq!(error, RingError::Inflight(InflightError::OtherSize { recorded: 8, size: 4 }));
}

fn records_without_requests_suit_a_new_ring(format: Format) {
    let rig = Rig::tracked(Setup::new(format, 8));
    drop(rig.start());
    let mut config = rig.config(rig.driver.fresh_base());
    config.size = 4;
    assert!(config.activate().is_ok());
}

fn random_records_never_panic(format: Format) {
    let mut dice = Dice::new(5);
    for round in 0..3000 {
        let mut rig = Rig::tracked(Setup::new(format, 8));
        (0..2).for_each(|token| rig.add_simple(token));
        rig.driver.publish();
        let mut queue = rig.start();
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain);
        queue.publish();
        let chain = queue.pop().unwrap().unwrap();
        drop(queue);
        chain.abandon();
        // Damage to records that were good.
        let region = rig.inflight.as_ref().unwrap().queue(0).unwrap().unwrap();
        for _ in 0..1 + round % 4 {
            region.poke(8 + dice.roll(180), dice.roll(12) as u8);
        }
        if let Ok(mut queue) = rig.config(rig.driver.fresh_base()).activate() {
            while let Ok(Some(chain)) = queue.pop() {
                queue.complete(chain);
                queue.publish();
            }
        }
    }
}
