//! A pair of queues of a port, in the hands of its thread: from the guest into other ports' inboxes, and from its own
//! inbox to the guest.
//!
//! The guest is hostile, and so are the others. What one of them is slow to take waits in the sender's rings up to a bound (a
//! short packet in a copy, within the same bound), in copies up to another, and is dropped and counted beyond that. Of the copies that wait for a port, a sender has no more
//! than there is room for others; what has arrived is delivered sender by sender, in turns. All of them together get three quarters of a ring, and
//! each no more than the others leave of that, so that there is always some for one that is not slow. Nothing is lent of a
//! ring whose requests return in order: one packet that is not taken would hold up those behind it.

use std::sync::Arc;
use std::time::Instant;

use outboard_device::{Chain, Cx, Inbox, inbox};
use outboard_frames::Offload;
use outboard_switch::{Decision, Egress, Front, PortId, Retag, UNTAGGED, Vlan, decide};

use super::delivery::{Batch, Delivery, Frame, Papers, Pool, Spares};
use super::fabric::{Entrance, Floods, Seat, View};
use super::mirror::Mirror;
use super::port::PortCounters;
use super::shares::{Share, Shares};
use super::turns::Turns;
use crate::backlog::Backlog;
use crate::host::{Glance, SHORT, Sent, Side};
use crate::rx::Rx;
use crate::tx::Outgoing;

/// How much of a packet is looked at: a small one as a whole.
const FRONT: usize = 64;
/// The most deliveries that wait for a port: more than its senders' shares come to, unless there are very many.
const ROOM: usize = 4096;
/// The most entries of one sender's rings with packets that wait for one port.
const MOST_LENT: usize = 128;
/// The most pieces of a packet that is lent: others take longer to copy, which is the sender's own affair.
const MOST_PIECES: usize = 32;
/// With so many copies waiting for a port, it gets none that others get as well, and no more with so many.
pub(super) const MOST_FRAMES: usize = 128;
pub(super) const MOST_COPIED: usize = 1024;
/// So many packets at a time: the guest's own have their turn.
const AT_ONCE: usize = 128;
/// The most ports that a sender keeps vectors for.
const MOST_KEPT: usize = 64;

pub(super) struct PortSide {
    view: View,
    port: PortId,
    /// The number is nobody else's as long as this side may use it.
    _seat: Arc<Seat>,
    pair: u16,
    counters: Arc<PortCounters>,
    mirror: Option<Arc<Mirror>>,
    /// Where others put what the guest is to receive; `None`: it receives nothing.
    inbox: Option<Inbox<Delivery>>,
    /// Taken from the inbox, still to be delivered.
    arrived: Turns,
    /// Between inbox and `arrived`; empty.
    taken: Vec<Delivery>,
    /// What this pass has for each port that it has something for, or once had.
    bags: Vec<Bag>,
    spares: Arc<Spares>,
    pool: Pool,
    floods: Arc<Floods>,
    shares: Arc<Shares>,
    /// What time it is in this pass.
    now: Option<(Instant, u32)>,
    /// Where packets went in this pass that began as the last one did.
    course: Option<Course>,
    /// For one delivery on its way; empty.
    posted: Vec<Delivery>,
    /// A packet for several, or for the host, or a part of it; empty.
    rest: Vec<u8>,
}

/// A packet in memory of our own, for several.
struct Copied<'a> {
    offload: Offload,
    head: &'a [u8],
    rest: Vec<u8>,
    /// With one tag or without: there are no others in a VLAN.
    made: Vec<(Retag, Arc<Frame>)>,
}

impl Copied<'_> {
    /// It, with its tag as it is to be; `None` if no header can tell of that.
    fn frame(&mut self, retag: Retag, pool: &mut Pool) -> Option<Arc<Frame>> {
        if let Some((_, frame)) = self.made.iter().find(|(known, _)| *known == retag) {
            return Some(Arc::clone(frame));
        }
        let offload = self.offload.moved(retag.growth())?;
        let frame = pool.make(|frame| {
            frame.offload = offload;
            retag.write(self.head, &mut frame.bytes);
            frame.bytes.extend_from_slice(&self.rest);
        });
        self.made.push((retag, Arc::clone(&frame)));
        Some(frame)
    }
}

/// Where packets with this front go, as they are: what was decided about one holds for all of a pass.
struct Course {
    /// Addresses and type: there is no tag.
    front: [u8; UNTAGGED],
    /// The place of the bag for their port.
    bag: usize,
}

/// Packets for one port, of one pass.
struct Bag {
    to: PortId,
    chains: Vec<Chain>,
    papers: Papers,
    /// Entries of the ring that the chains take, and packets that are whole.
    entries: usize,
    /// What waits for the port, of earlier passes and other pairs, too.
    share: Share,
}

impl Bag {
    /// Whether fewer than `most` wait for the port.
    #[inline]
    fn has_room(&self, most: usize) -> bool {
        self.entries + self.share.lent.waiting() < most
    }

    /// Adds a packet that is whole, whose bytes are written by `bytes`. False if there is no room for it.
    #[inline]
    fn add_whole(&mut self, offload: Offload, bytes: impl FnOnce(&mut Vec<u8>)) -> bool {
        let has_room = self.has_room(MOST_LENT);
        if has_room {
            self.entries += 1;
            self.papers.push(offload, false, bytes);
        }
        has_room
    }
}

/// Whether one more copy may wait for a port where fewer than `most` are to: of one sender no more than there is room for
/// others.
pub(super) fn has_room(most: usize, all: &Backlog, own: &Backlog) -> bool {
    own.waiting() < most.saturating_sub(all.waiting())
}

impl PortSide {
    pub(super) fn new(
        seat: Arc<Seat>,
        pair: u16,
        floods: Arc<Floods>,
        shares: Arc<Shares>,
        counters: Arc<PortCounters>,
        mirror: Option<Arc<Mirror>>,
    ) -> Self {
        Self {
            view: View::new(&seat.switch),
            port: seat.port,
            _seat: seat,
            pair,
            counters,
            mirror,
            inbox: None,
            arrived: Turns::default(),
            taken: Vec::new(),
            bags: Vec::new(),
            spares: Arc::default(),
            pool: Pool::default(),
            floods,
            shares,
            now: None,
            course: None,
            posted: Vec::new(),
            rest: Vec::new(),
        }
    }

    /// What time it is, and a look at what has changed, once a pass.
    fn time(&mut self, cx: &Cx<'_, ()>) -> (Instant, u32) {
        *self.now.get_or_insert_with(|| {
            self.view.renew();
            let now = cx.now();
            (now, self.view.switch.seconds(now))
        })
    }

    /// Puts a packet into the bag for its port.
    fn pack(&mut self, egress: Egress, mut packet: Outgoing<'_>, cx: &mut Cx<'_, ()>) -> Sent {
        let wire = self.view.plan.wire(egress.port);
        if wire.is_none() && self.view.plan.entrance(egress.port, self.pair).is_none() {
            self.counters.to_down.add(1);
            return Sent::Done(packet.rest);
        }
        let Some(offload) = packet.offload.moved(egress.retag.growth()) else {
            self.counters.no_tag.add(1);
            return Sent::Done(packet.rest);
        };
        if let Some(wire) = wire {
            egress.retag.write(packet.head, &mut self.rest);
            let mut chain = packet.rest;
            wire.send(&offload, &mut self.rest, Some(&mut chain));
            self.rest.clear();
            return Sent::Done(chain);
        }
        let lends = packet.rest.readable().len() <= MOST_PIECES;
        // Of what others leave, one port gets half: so there is always a rest.
        let most = MOST_LENT.min(cx.lendable(packet.rest.queue()) as usize);
        match self.bag(egress.port) {
            Some(bag) if lends && bag.has_room(most) => {
                bag.entries += usize::from(packet.rest.entries());
                bag.papers.push(offload, true, |front| egress.retag.write(packet.head, front));
                bag.chains.push(packet.rest);
                Sent::Kept
            }
            _ => {
                // In copies from now on, behind what is in the bag: the ring is for others, too.
                self.hand_over(cx);
                let mut copied = self.copy(&mut packet);
                self.give(egress, &mut copied, MOST_COPIED);
                self.done_with(copied);
                Sent::Done(packet.rest)
            }
        }
    }

    /// Puts a packet into the bag for its port, all of which is at hand: there is nothing to be lent. False if that is no way
    /// for it.
    fn pack_whole(&mut self, egress: Egress, packet: &Glance<'_>) -> bool {
        let plan = &self.view.plan;
        if plan.wire(egress.port).is_some() || plan.entrance(egress.port, self.pair).is_none() {
            return false;
        }
        let Some(offload) = packet.offload.moved(egress.retag.growth()) else { return false };
        let at = self.bag_at(egress.port);
        if egress.retag == Retag::Keep
            && let Some(&front) = packet.front.first_chunk()
            && Front::is_untagged(&front)
        {
            self.course = Some(Course { front, bag: at });
        }
        let bag = self.bags.get_mut(at);
        bag.is_some_and(|bag| bag.add_whole(offload, |front| egress.retag.write(packet.front, front)))
    }

    /// [`Self::pack_whole`] for a packet like the last one.
    #[inline]
    fn pack_alike(&mut self, packet: &Glance<'_>) -> bool {
        let course = self.course.as_ref().filter(|course| packet.front.starts_with(&course.front));
        let bag = course.and_then(|course| self.bags.get_mut(course.bag));
        bag.is_some_and(|bag| bag.add_whole(packet.offload, |front| front.extend_from_slice(packet.front)))
    }

    /// The bag for a port: there always is one.
    fn bag(&mut self, to: PortId) -> Option<&mut Bag> {
        let at = self.bag_at(to);
        self.bags.get_mut(at)
    }

    fn bag_at(&mut self, to: PortId) -> usize {
        self.bags.iter().position(|bag| bag.to == to).unwrap_or_else(|| {
            let (papers, share) = (self.spares.take(), self.shares.of(to));
            self.bags.push(Bag { to, chains: Vec::new(), papers, entries: 0, share });
            self.bags.len() - 1
        })
    }

    /// Gives everybody in the VLAN a copy, as far as the port may.
    fn flood(&mut self, vlan: Vlan, front: Front, now: Instant, packet: &mut Copied<'_>) {
        if !self.floods.admit(packet.offload.frames(packet.head.len() + packet.rest.len()), now) {
            return self.counters.flood_limit.add(1);
        }
        let plan = Arc::clone(&self.view.plan);
        for egress in plan.ports.flood(self.port, front, vlan) {
            self.give(egress, packet, MOST_FRAMES);
        }
    }

    /// Reads a packet as a whole, for several.
    fn copy<'a>(&mut self, packet: &mut Outgoing<'a>) -> Copied<'a> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.resize(packet.rest.readable_len(), 0);
        // As many as there are.
        let _ = packet.rest.read_exact(&mut rest);
        Copied { offload: packet.offload, head: packet.head, rest, made: Vec::new() }
    }

    fn done_with(&mut self, copied: Copied<'_>) {
        self.rest = copied.rest;
        self.rest.clear();
    }

    /// Whether a port receives nothing at all.
    fn is_down(&self, port: PortId) -> bool {
        self.view.plan.wire(port).is_none() && self.view.plan.entrance(port, self.pair).is_none()
    }

    /// Gives one port a copy, if fewer than `most` wait there.
    fn give(&mut self, egress: Egress, packet: &mut Copied<'_>, most: usize) {
        let (wire, entrance) =
            (self.view.plan.wire(egress.port), self.view.plan.entrance(egress.port, self.pair));
        let copied = self.shares.of(egress.port).copied;
        if entrance.is_some_and(|entrance| !has_room(most, &entrance.frames, &copied)) {
            return self.counters.to_full.add(1);
        }
        if wire.is_none() && entrance.is_none() {
            return;
        }
        let Some(frame) = packet.frame(egress.retag, &mut self.pool) else {
            return self.counters.no_tag.add(1);
        };
        if let Some(wire) = wire {
            wire.send(&frame.offload, &mut frame.bytes.clone(), None);
            self.counters.copied.add(1);
        }
        if let Some(entrance) = entrance {
            let places = [entrance.frames.enter(1), copied.enter(1)];
            self.posted.push(Delivery::Frame { from: self.port, frame, _places: places });
            if entrance.outlet.post(&mut self.posted) == 1 {
                self.counters.copied.add(1);
            } else {
                self.counters.not_taken(&entrance.outlet, 1);
            }
            self.posted.clear();
        }
    }

    /// What the guest receives, for the mirror.
    fn show(&mut self, offload: &Offload, front: &[u8], chain: Option<&mut Chain>) -> Option<Arc<Frame>> {
        let mirror = self.mirror.as_ref()?;
        let frame = self.pool.make(|frame| {
            frame.offload = *offload;
            frame.bytes.extend_from_slice(front);
            if let Some(chain) = chain {
                frame.bytes.resize(front.len() + chain.readable_len(), 0);
                // As many as there are.
                let _ = chain.read_exact(frame.bytes.get_mut(front.len()..).unwrap_or_default());
            }
        });
        mirror.show(&frame);
        Some(frame)
    }

    /// Hands over what this pass has put into bags.
    fn hand_over(&mut self, cx: &mut Cx<'_, ()>) {
        for bag in &mut self.bags {
            let count = bag.papers.len();
            if count == 0 {
                continue;
            }
            let papers = std::mem::replace(&mut bag.papers, self.spares.take());
            let _place = bag.share.lent.enter(std::mem::take(&mut bag.entries));
            let parcel = if bag.chains.is_empty() { None } else { Some(cx.lend(&mut bag.chains)) };
            let batch = Batch { from: self.port, parcel, papers, home: Arc::clone(&self.spares), _place };
            self.posted.push(Delivery::Batch(batch));
            let outlet = self.view.plan.entrance(bag.to, self.pair).map(|Entrance { outlet, .. }| outlet);
            match outlet {
                Some(outlet) if outlet.post(&mut self.posted) == 1 => {}
                Some(outlet) => self.counters.not_taken(outlet, count as u64),
                None => self.counters.to_down.add(count as u64),
            }
            // Chains that were not taken go home.
            self.posted.clear();
        }
        self.course = None;
        if self.bags.len() > MOST_KEPT {
            self.bags.retain(|bag| bag.share.lent.waiting() > 0);
        }
    }

    /// Nobody is to bring anything any more, and what is there is given back.
    fn close(&mut self) {
        if let Some(mut inbox) = self.inbox.take() {
            self.view.switch.detach(self.port, self.pair);
            inbox.close().into_iter().for_each(|delivery| self.arrived.put(delivery));
        }
        while let Some(delivery) = self.arrived.next() {
            self.counters.cut_off.add(delivery.len() as u64);
        }
    }
}

impl Side for PortSide {
    fn front(&self) -> usize {
        FRONT
    }

    fn turned(&mut self, receives: bool, cx: &mut Cx<'_, ()>) {
        if !receives {
            self.close();
        } else if self.inbox.is_none() {
            let (inbox, outlet) = inbox(ROOM, cx.waker());
            self.inbox = Some(inbox);
            self.view.switch.attach(self.port, self.pair, outlet);
        }
    }

    /// Short packets as a whole.
    fn glanced_at(&self) -> Option<usize> {
        Some(SHORT)
    }

    /// Those that go to one port. What is learned of others is learned again.
    fn glance(&mut self, packet: &Glance<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        if self.mirror.is_some() || !packet.is_whole() {
            return false;
        }
        if self.pack_alike(packet) {
            return true;
        }
        let Some(front) = Front::parse(packet.front) else { return false };
        let (_, seconds) = self.time(cx);
        let View { switch, plan, .. } = &self.view;
        match decide(&plan.ports, &switch.fdb, self.port, &front, seconds) {
            Decision::Unicast(egress) => self.pack_whole(egress, packet),
            _ => false,
        }
    }

    fn send(&mut self, mut packet: Outgoing<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        let (now, seconds) = self.time(cx);
        let Some(front) = Front::parse(packet.head) else {
            // The tag that it says it has is not there.
            self.counters.no_tag.add(1);
            return Sent::Done(packet.rest);
        };
        let View { switch, plan, .. } = &self.view;
        let decision = decide(&plan.ports, &switch.fdb, self.port, &front, seconds);
        if let Decision::Unicast(egress) = decision
            && self.mirror.is_none()
        {
            return self.pack(egress, packet, cx);
        }
        if let Decision::Drop(why) = decision {
            self.counters.decided(why);
            if self.mirror.is_none() {
                return Sent::Done(packet.rest);
            }
        }
        let mut copied = self.copy(&mut packet);
        if let Some(mirror) = self.mirror.clone()
            && let Some(frame) = copied.frame(Retag::Keep, &mut self.pool)
        {
            mirror.show(&frame);
        }
        match decision {
            Decision::Unicast(egress) if self.is_down(egress.port) => self.counters.to_down.add(1),
            Decision::Unicast(egress) => self.give(egress, &mut copied, MOST_COPIED),
            Decision::Flood(vlan) => self.flood(vlan, front, now, &mut copied),
            Decision::Drop(_) => {}
        }
        self.done_with(copied);
        Sent::Done(packet.rest)
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        self.hand_over(cx);
        self.now = None;
        if let Some(inbox) = &mut self.inbox {
            inbox.take(&mut self.taken);
            self.taken.drain(..).for_each(|delivery| self.arrived.put(delivery));
        }
        let mut count = 0;
        while count < AT_ONCE
            && let Some(delivery) = self.arrived.next()
        {
            match delivery {
                Delivery::Batch(mut batch) => {
                    count += batch.papers.len();
                    for (offload, front, mut chain) in batch.packets() {
                        match self.show(offload, front, chain.as_deref_mut()) {
                            Some(frame) => rx.pass(&frame.offload, &frame.bytes, None, cx),
                            None => rx.pass(offload, front, chain, cx),
                        }
                    }
                    batch.home.put(batch.papers);
                }
                Delivery::Frame { frame, .. } => {
                    count += 1;
                    self.mirror.iter().for_each(|mirror| mirror.show(&frame));
                    rx.pass(&frame.offload, &frame.bytes, None, cx);
                }
            }
        }
        count > 0
    }

    fn is_ready(&self) -> bool {
        !self.arrived.is_empty() || self.inbox.as_ref().is_some_and(Inbox::is_ready)
    }

    fn stop(&mut self, cx: &mut Cx<'_, ()>) {
        for bag in &mut self.bags {
            self.counters.cut_off.add(bag.papers.len() as u64);
            cx.done_all(&mut bag.chains);
        }
        self.bags.clear();
    }
}

impl Drop for PortSide {
    fn drop(&mut self) {
        self.close();
    }
}
