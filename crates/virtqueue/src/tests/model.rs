//! The driver's half against the device's, with chains of any shape, in any batches, completed in any order.

use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::{DATA_LEN, Dice, Rig, Setup, both};
use crate::driver::{AddError, Buffer};
use crate::{Base, Chain, Descriptor, Format, Virtqueue};

/// Bytes of memory for the buffers of one request.
const ROOM: u64 = 512;
const ROOMS: u64 = DATA_LEN / ROOM;

#[derive(Debug, Clone)]
enum Step {
    /// A request of so many readable bytes and writable ones, cut into so many buffers.
    Add {
        readable: u32,
        writable: u32,
        cuts: u8,
    },
    DriverPublish,
    Pop,
    /// Writes so much into the next one, if it is a single buffer, and completes it.
    Put {
        len: u32,
    },
    /// Looks at the front of the next one, if it is a single buffer, and completes it, or takes it as a chain after all.
    Glance {
        len: usize,
        open: bool,
    },
    /// Completes one of those held, with part of what there is to write.
    Complete {
        which: usize,
        part: u32,
    },
    PutBack {
        which: usize,
    },
    Publish,
    Poll,
    /// Drains, stops, starts again.
    Restart,
    /// The same memory at other addresses of ours.
    Remap,
    Arm,
    Suppress,
}

fn step() -> impl Strategy<Value = Step> {
    let add = || {
        (prop_oneof![3 => 8..200_u32, 1 => Just(0)], prop_oneof![3 => 0..200_u32, 1 => Just(0)], any::<u8>())
            .prop_map(|(readable, writable, cuts)| Step::Add { readable, writable, cuts })
    };
    let complete = || (any::<usize>(), 0..=200_u32).prop_map(|(which, part)| Step::Complete { which, part });
    prop_oneof![
        6 => add(),
        3 => Just(Step::DriverPublish),
        6 => Just(Step::Pop),
        4 => (0..200_u32).prop_map(|len| Step::Put { len }),
        4 => (0..200_usize, any::<bool>()).prop_map(|(len, open)| Step::Glance { len, open }),
        6 => complete(),
        1 => any::<usize>().prop_map(|which| Step::PutBack { which }),
        3 => Just(Step::Publish),
        3 => Just(Step::Poll),
        1 => Just(Step::Restart),
        1 => Just(Step::Remap),
        1 => Just(Step::Arm),
        1 => Just(Step::Suppress),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let sizes = prop_oneof![1..=4_u16, 5..=40_u16, Just(256)];
    (any::<bool>(), sizes, any::<bool>(), any::<bool>(), prop_oneof![Just(0), 2..9_u16]).prop_map(
        |(packed, size, event_idx, in_order, table_entries)| {
            let format = if packed { Format::Packed } else { Format::Split };
            let size = if packed { size } else { size.next_power_of_two() };
            Setup { format, size, event_idx, in_order, table_entries }
        },
    )
}

struct Request {
    readable: Vec<u8>,
    writable: Vec<Buffer>,
    room: u32,
    /// As completed.
    written: Option<u32>,
}

/// Both halves, and what should be.
struct Model {
    rig: Rig,
    queue: Option<Virtqueue>,
    next_token: u64,
    requests: HashMap<u64, Request>,
    /// Added, not yet visible, in order.
    hidden: VecDeque<u64>,
    /// Visible or put back, in the order in which they must be popped.
    waiting: VecDeque<u64>,
    held: Vec<(u64, Chain)>,
    /// Completed, not yet polled, in order of completion.
    completed: Vec<u64>,
    popped: u64,
}

impl Model {
    fn new(setup: Setup) -> Self {
        let rig = Rig::new(setup);
        let queue = Some(rig.start());
        Self {
            rig,
            queue,
            next_token: 0,
            requests: HashMap::new(),
            hidden: VecDeque::new(),
            waiting: VecDeque::new(),
            held: Vec::new(),
            completed: Vec::new(),
            popped: 0,
        }
    }

    fn queue(&mut self) -> &mut Virtqueue {
        self.queue.as_mut().unwrap()
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Add { readable, writable, cuts } => self.add(readable, writable, cuts),
            Step::DriverPublish => {
                self.rig.driver.publish();
                self.waiting.append(&mut self.hidden);
            }
            Step::Pop => self.pop(),
            Step::Put { len } => self.put(len),
            Step::Glance { len, open } => self.glance(len, open),
            Step::Complete { which, part } => self.complete(which, part),
            Step::PutBack { which } => {
                if self.held.is_empty() {
                    return;
                }
                let (token, chain) = self.held.swap_remove(which % self.held.len());
                self.queue().put_back(chain);
                let place = self.waiting.partition_point(|&other| other < token);
                self.waiting.insert(place, token);
            }
            Step::Publish => {
                self.queue().publish();
                self.queue().call_needed();
            }
            Step::Poll => self.poll(),
            Step::Restart => self.restart(),
            Step::Remap => {
                let mem = self.rig.remap();
                self.queue().update(mem).unwrap();
            }
            Step::Arm => {
                let nothing = self.waiting.is_empty();
                assert_eq!(self.queue().arm_kicks(), nothing);
                assert_eq!(self.queue().has_available(), !nothing);
            }
            Step::Suppress => self.queue().suppress_kicks(),
        }
        let held = self.held.len() as u32;
        assert_eq!(self.queue().in_flight(), held);
    }

    fn add(&mut self, readable: u32, writable: u32, cuts: u8) {
        let token = self.next_token;
        // Rooms are taken in turn; there are more of them than requests fit on the ring.
        let start = token % ROOMS * ROOM;
        let mut bytes: Vec<u8> = (0..readable).map(|index| (token as u8).wrapping_add(index as u8)).collect();
        if let Some(front) = bytes.get_mut(..8) {
            front.copy_from_slice(&token.to_le_bytes());
        }
        let mut dice = Dice::new(u64::from(cuts));
        let mut cut = |mut at: u64, mut left: u32| {
            let mut buffers = Vec::new();
            for _ in 0..cuts % 4 {
                let len = dice.roll(left as usize + 1) as u32;
                buffers.push(self.rig.buffer(at, len));
                (at, left) = (at + u64::from(len), left - len);
            }
            if left > 0 {
                buffers.push(self.rig.buffer(at, left));
            }
            buffers
        };
        let (from, to) = (cut(start, readable), cut(start + ROOM / 2, writable));
        match self.rig.driver.add(&from, &to, token) {
            Err(AddError::Full) => assert!(self.rig.driver.free() < (from.len() + to.len()) as u32),
            Err(AddError::Shape(count)) => assert!(count > self.rig.setup.size.into() || count == 0),
            Ok(()) => {
                let at = self.rig.buffer(start, readable);
                self.rig.write(at, &bytes);
                let request = Request { readable: bytes, writable: to, room: writable, written: None };
                self.requests.insert(token, request);
                self.hidden.push_back(token);
                self.next_token += 1;
            }
        }
    }

    fn pop(&mut self) {
        let expected = self.waiting.pop_front();
        let chain = self.queue().pop().unwrap();
        let (Some(token), Some(mut chain)) = (expected, chain) else {
            assert!(expected.is_none(), "request {expected:?} was not popped");
            return;
        };
        let request = &self.requests[&token];
        assert_eq!(chain.readable_len(), request.readable.len());
        assert_eq!(chain.writable_len(), request.room as usize);
        let mut bytes = vec![0; request.readable.len()];
        chain.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, request.readable);
        self.popped += 1;
        self.held.push((token, chain));
    }

    fn put(&mut self, len: u32) {
        let Some(&token) = self.waiting.front() else { return assert!(!self.queue().put(&0_u8, &[])) };
        let fill = token as u8 ^ 0xff;
        // One byte as the value, the others as the data behind it.
        if self.queue().put(&fill, &vec![fill; len as usize]) {
            let request = self.requests.get_mut(&token).unwrap();
            assert!(request.readable.is_empty() && len < request.room, "{len} of {}", request.room);
            request.written = Some(len + 1);
            self.completed.push(token);
            self.waiting.pop_front();
            self.popped += 1;
        }
    }

    fn glance(&mut self, len: usize, open: bool) {
        let mut front = vec![0; len];
        let glanced = self.queue().glance(&mut front);
        let (Some(&token), Some(glanced)) = (self.waiting.front(), glanced) else { return };
        self.waiting.pop_front();
        self.popped += 1;
        let held = self.held.len() as u32;
        assert_eq!(self.queue().in_flight(), held + 1);
        let request = self.requests.get_mut(&token).unwrap();
        assert_eq!((request.room, glanced.len()), (0, request.readable.len()));
        let seen = len.min(glanced.len());
        assert_eq!(front[..seen], request.readable[..seen]);
        assert!(front[seen..].iter().all(|&byte| byte == 0));
        if open {
            let mut chain = self.queue().open(glanced).unwrap();
            let mut bytes = vec![0; self.requests[&token].readable.len()];
            chain.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, self.requests[&token].readable);
            assert_eq!((chain.readable_len(), chain.writable_len()), (0, 0));
            self.held.push((token, chain));
        } else {
            request.written = Some(0);
            self.completed.push(token);
            self.queue().dismiss(glanced);
        }
    }

    fn complete(&mut self, which: usize, part: u32) {
        if self.held.is_empty() {
            return;
        }
        let (token, mut chain) = self.held.swap_remove(which % self.held.len());
        let request = self.requests.get_mut(&token).unwrap();
        let part = part.min(request.room);
        chain.write_all(&vec![token as u8 ^ 0xff; part as usize]).unwrap();
        request.written = Some(part);
        self.completed.push(token);
        self.queue().complete(chain);
    }

    fn poll(&mut self) {
        if self.rig.setup.in_order {
            self.completed.sort_unstable();
        }
        while let Some((token, len)) = self.rig.driver.poll_used().unwrap() {
            assert_eq!(self.completed.remove(0), token, "returned in the order of completion");
            let request = self.requests.remove(&token).unwrap();
            assert_eq!(request.written, Some(len));
            let bytes: Vec<u8> = request
                .writable
                .iter()
                .flat_map(|&buffer| self.rig.read(buffer))
                .take(len as usize)
                .collect();
            assert!(bytes.iter().all(|&byte| byte == token as u8 ^ 0xff));
        }
    }

    fn restart(&mut self) {
        while !self.held.is_empty() {
            self.complete(0, 3);
        }
        // Chains put back that older ones were popped before cannot go back to the ring: those are served.
        while !self.waiting.is_empty() {
            self.pop();
            self.complete(0, 3);
        }
        let base = self.queue.take().unwrap().stop();
        self.poll();
        assert!(self.completed.is_empty());
        if self.rig.setup.format == Format::Split {
            assert_eq!(base, self.rig.driver.base_for_restart());
        }
        self.queue = Some(self.rig.config(base).activate().unwrap());
    }

    fn finish(mut self) {
        self.step(&Step::DriverPublish);
        self.restart();
        assert_eq!(self.rig.driver.outstanding(), 0);
        assert_eq!(self.rig.driver.free(), u32::from(self.rig.setup.size));
        assert!(self.requests.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn every_request_returns_once_and_as_it_was_left(
        setup in setup(),
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut model = Model::new(setup);
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}

both! { indexes_wrap_without_a_trace largest_ring_is_filled_to_the_last restart_in_mid_lap_goes_on
chain_put_back_last_returns_to_the_ring single_buffers_are_served_without_a_chain batch_returned_as_one_is_taken_apart }

fn indexes_wrap_without_a_trace(format: Format) {
    for (size, event_idx, in_order) in [(2, true, false), (64, false, true), (64, true, false)] {
        let size = if format == Format::Packed { size + 1 } else { size };
        let mut model = Model::new(Setup { size, event_idx, in_order, table_entries: 0, format });
        let mut dice = Dice::new(1);
        while model.popped < 70_000 {
            for _ in 0..=dice.roll(usize::from(size)) {
                model.add(8, 8, 0);
            }
            model.step(&Step::DriverPublish);
            for _ in 0..=dice.roll(usize::from(size)) {
                model.pop();
            }
            while model.held.len() > dice.roll(6) {
                model.complete(dice.roll(8), 5);
            }
            model.step(&Step::Publish);
            model.poll();
        }
        model.finish();
    }
}

fn largest_ring_is_filled_to_the_last(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 32768));
    let buffer = rig.buffer(0, 8);
    for round in 0..3 {
        for token in 0..32768 {
            rig.driver.add::<Buffer, _>(&[], &[buffer], token).unwrap();
        }
        assert_eq!(rig.driver.add(&[buffer], &[buffer], 0), Err(AddError::Full));
        rig.driver.publish();
        let base = match (format, round % 2) {
            (Format::Split, _) => Base::split((round * 32768) as u16),
            (Format::Packed, 0) => Base::FRESH_PACKED,
            (Format::Packed, _) => Base(0),
        };
        let mut queue = rig.config(base).activate().unwrap();
        let chains: Vec<Chain> = std::iter::from_fn(|| queue.pop().unwrap()).collect();
        assert_eq!(chains.len(), 32768);
        chains.into_iter().for_each(|chain| queue.complete(chain));
        queue.publish();
        for token in 0..32768 {
            assert_eq!(rig.driver.poll_used().unwrap(), Some((token, 0)));
        }
        queue.stop();
    }
}

fn restart_in_mid_lap_goes_on(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let mut base = rig.driver.fresh_base();
    for token in 0..100 {
        rig.add_simple(token);
        rig.driver.publish();
        let mut queue = rig.config(base).activate().unwrap();
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain);
        base = queue.stop();
        if format == Format::Packed && base.0 & 0xffff != 0 {
            // As front ends have it that know only the low half.
            base = Base(base.0 & 0xffff);
        }
        assert_eq!(rig.driver.poll_used().unwrap(), Some((token, 0)));
        assert_eq!(rig.driver.base_for_restart().0 & 0xffff, base.0 & 0xffff);
    }
}

fn chain_put_back_last_returns_to_the_ring(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    (0..3).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chains: Vec<Chain> = (0..3).map(|_| queue.pop().unwrap().unwrap()).collect();
    queue.complete(chains.remove(0));
    chains.into_iter().for_each(|chain| queue.put_back(chain));
    let base = queue.stop();
    let mut queue = rig.config(base).activate().unwrap();
    for token in [1, 2] {
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(super::serve(&mut chain), token);
        queue.complete(chain);
    }
    queue.publish();
    for token in 0..3 {
        assert_eq!(rig.driver.poll_used().unwrap().unwrap().0, token);
    }
}

/// All of them, once it is known in which region they are; what is no single buffer of the kind, or too short, is left alone.
fn single_buffers_are_served_without_a_chain(format: Format) {
    let mut rig = Rig::new(Setup { table_entries: 2, ..Setup::new(format, 8) });
    let [a, b] = [0, 64].map(|at| rig.buffer(at, 8));
    let mut queue = rig.start();
    let add = |rig: &mut Rig, readable: &[Buffer], writable: &[Buffer], token| {
        rig.driver.add(readable, writable, token).unwrap();
        rig.driver.publish();
    };
    rig.write(a, b"abcdefgh");
    for round in 0..20 {
        add(&mut rig, &[a], &[], 1);
        add(&mut rig, &[], &[b], 2);
        if round == 0 {
            let first = queue.take().unwrap();
            queue.complete(first);
        } else {
            let mut front = [0; 3];
            assert!(!queue.put(&1_u8, b"x"), "it is to be read");
            let glanced = queue.glance(&mut front).unwrap();
            assert_eq!((glanced.len(), &front), (8, b"abc"));
            queue.dismiss(glanced);
        }
        assert!(queue.glance(&mut [0; 3]).is_none(), "it is to be written");
        assert!(!queue.put(&1_u8, &[0; 8]), "it has 8 bytes");
        assert!(queue.put(&7_u32, b"data"));
        assert!(!queue.put(&1_u8, b"x") && queue.glance(&mut [0]).is_none(), "there is none");
        queue.publish();
        assert_eq!(rig.driver.poll_used().unwrap(), Some((1, 0)));
        assert_eq!(rig.driver.poll_used().unwrap(), Some((2, 8)));
        assert_eq!(rig.read(b), b"\x07\0\0\0data");
    }
    // In a table, since there are two.
    add(&mut rig, &[], &[a, b], 3);
    assert!(!queue.put(&1_u8, b"x"));
    let chain = queue.take().unwrap();
    assert_eq!(chain.writable_len(), 16);
    queue.put_back(chain);
    add(&mut rig, &[], &[b], 4);
    assert!(!queue.put(&1_u8, b"x"), "one that was put back comes first");
    let chain = queue.take().unwrap();
    assert!(queue.put(&1_u8, b"x"), "whoever has one may put the next");
    queue.complete(chain);
    queue.publish();
    assert_eq!(rig.driver.poll_used().unwrap(), Some((4, 2)));
    assert_eq!(rig.driver.poll_used().unwrap(), Some((3, 0)));
    assert_eq!(queue.in_flight(), 0);
}

/// With IN_ORDER a device may write one used element for several requests.
fn batch_returned_as_one_is_taken_apart(format: Format) {
    let mut rig = Rig::new(Setup { in_order: true, ..Setup::new(format, 8) });
    (0..3).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let used = super::START + rig.driver.layout().device;
    match format {
        Format::Split => {
            // Heads are 0, 2, 4.
            rig.mem.write_from(used + 4, &[4, 0, 0, 0, 6, 0, 0, 0]).unwrap();
            rig.mem.write_from(used + 2, &[3, 0]).unwrap();
        }
        Format::Packed => {
            let flags = Descriptor::AVAIL | Descriptor::USED | Descriptor::WRITE;
            rig.driver.write_descriptor(0, Descriptor { addr: 0, len: 6, flags, link: 2 });
        }
    }
    for (token, len) in [(0, 0), (1, 0), (2, 6)] {
        assert!(rig.driver.has_used());
        assert_eq!(rig.driver.poll_used().unwrap(), Some((token, len)));
    }
    assert_eq!(rig.driver.poll_used().unwrap(), None);
    assert_eq!(rig.driver.free(), 8);
}
