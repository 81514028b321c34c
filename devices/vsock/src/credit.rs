//! Who may send how much (VIRTIO 1.3, 5.10.6.3). Pure. All counts are modulo 2^32, as the wire has them.

/// What the guest may send: how much there is room for here.
#[derive(Clone, Debug)]
pub(crate) struct Ours {
    alloc: u32,
    /// The most that `alloc` may become.
    most: u32,
    /// Bytes that came.
    received: u32,
    /// Bytes that are with their receiver.
    forwarded: u32,
    /// `forwarded` as the guest knows it.
    told: u32,
    /// Bytes that came since `alloc` is what it is.
    since: u32,
}

/// What may be sent to the guest: how much it has room for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Theirs {
    alloc: u32,
    forwarded: u32,
    sent: u32,
}

/// A guest that has less room than this left is told of more at once, in bytes: it sends no more than so much at a time.
const LITTLE: u32 = 64 << 10;

impl Ours {
    pub(crate) fn new(alloc: u32, most: u32) -> Self {
        Self { alloc, most: most.max(alloc), received: 0, forwarded: 0, told: 0, since: 0 }
    }

    /// How much there is room for, as announced.
    pub(crate) fn alloc(&self) -> u32 {
        self.alloc
    }

    /// Bytes that came and are not with their receiver.
    pub(crate) fn held(&self) -> u32 {
        self.received.wrapping_sub(self.forwarded)
    }

    /// Takes in `len` bytes; false, and nothing happened, if that is more than the guest may send.
    pub(crate) fn receive(&mut self, len: u32) -> bool {
        let fits = self.held().checked_add(len).is_some_and(|held| held <= self.alloc);
        if fits {
            self.received = self.received.wrapping_add(len);
            self.since = self.since.saturating_add(len);
        }
        fits
    }

    /// Their receiver has got `len` bytes, no more than were held.
    pub(crate) fn forward(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// By how much the room would grow, if it may: each time that as much has come as there is room for, it doubles.
    pub(crate) fn wants(&self) -> u32 {
        if self.since < self.alloc { 0 } else { self.alloc.min(self.most - self.alloc) }
    }

    /// There is more room.
    pub(crate) fn grow(&mut self, more: u32) {
        self.alloc = self.alloc.saturating_add(more).min(self.most);
        self.since = 0;
    }

    /// Whether the guest is to be told: there is much more room than it knows of, or it knows of little. A guest may let no
    /// more be on its way than it has room for itself, `own` bytes, whatever it is told: Linux does.
    pub(crate) fn is_news(&self, own: u32) -> bool {
        let room = self.alloc.min(own);
        let untold = self.forwarded.wrapping_sub(self.told);
        let known = room.saturating_sub(self.received.wrapping_sub(self.told));
        untold > 0 && (untold >= room / 2 || known < LITTLE.min(room / 2))
    }

    /// What a packet to the guest carries: room, and what is done away with.
    pub(crate) fn word(&self) -> (u32, u32) {
        (self.alloc, self.forwarded)
    }

    /// A packet has gone out that says that `forwarded` bytes are done away with.
    pub(crate) fn tell(&mut self, forwarded: u32) {
        self.told = forwarded;
    }
}

impl Theirs {
    /// What a packet of the guest carries; false if it says that it has done away with more than it was sent.
    #[must_use]
    pub(crate) fn update(&mut self, alloc: u32, forwarded: u32) -> bool {
        let out = self.sent.wrapping_sub(forwarded);
        let before = self.sent.wrapping_sub(self.forwarded);
        self.alloc = alloc;
        if out > before {
            // It goes back, which gives it nothing, or ahead.
            return out.cast_signed() >= 0;
        }
        self.forwarded = forwarded;
        true
    }

    /// Bytes that may be sent.
    pub(crate) fn credit(&self) -> u32 {
        self.alloc.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// All that the guest has room for when it has nothing.
    pub(crate) fn alloc(&self) -> u32 {
        self.alloc
    }

    /// `len` bytes are sent, no more than may be.
    pub(crate) fn send(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn guest_that_sends_more_than_it_may_is_seen_at_the_first_byte() {
        let mut ours = Ours::new(1000, 1000);
        assert!(ours.receive(600) && ours.receive(400));
        assert!(!ours.receive(1) && !ours.receive(u32::MAX));
        ours.forward(1);
        assert!(ours.receive(1));
        assert_eq!(ours.held(), 1000);
    }

    #[test]
    fn room_doubles_as_it_is_used_and_never_beyond_its_bound() {
        let mut ours = Ours::new(1000, 3000);
        assert_eq!(ours.wants(), 0);
        for (more, alloc) in [(1000, 2000), (1000, 3000), (0, 3000)] {
            for _ in 0..8 {
                assert!(ours.receive(500));
                ours.forward(500);
            }
            assert_eq!(ours.wants(), more);
            ours.grow(more);
            assert_eq!(ours.alloc(), alloc);
        }
    }

    #[test]
    fn guest_that_lies_about_what_it_got_gains_nothing() {
        let mut theirs = Theirs::default();
        assert!(theirs.update(100, 0));
        theirs.send(60);
        assert_eq!(theirs.credit(), 40);
        assert!(theirs.update(50, 0), "room may shrink");
        assert_eq!(theirs.credit(), 0);
        assert!(theirs.update(100, 60));
        assert_eq!(theirs.credit(), 100);
        assert!(theirs.update(100, 20), "and what it has done away with does not go back");
        assert_eq!(theirs.credit(), 100);
        assert!(!theirs.update(100, 61));
        assert!(theirs.update(u32::MAX, 60));
    }

    impl Theirs {
        /// What is on its way.
        fn out(&self) -> u32 {
            self.sent.wrapping_sub(self.forwarded)
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Move {
        Send(u32),
        Forward(u32),
        Tell,
        /// A packet is made, and finds no buffer.
        Keep,
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let one = prop_oneof![
            (1..5000_u32).prop_map(Move::Send),
            (1..5000_u32).prop_map(Move::Forward),
            Just(Move::Tell),
            Just(Move::Keep)
        ];
        proptest::collection::vec(one, 1..300)
    }

    proptest! {
        // Two ends that keep to the rules, and what is said is heard late: nothing beyond the room is ever sent, and
        // whoever may not send can be told so that he may.
        #[test]
        fn ends_that_keep_to_the_rules_never_break_and_never_stand_still(
            moves in moves(), start in any::<u32>(), alloc in 1..10_000_u32, own in 1..20_000_u32,
        ) {
            let mut ours = Ours::new(alloc, alloc * 4);
            (ours.received, ours.forwarded, ours.told) = (start, start, start);
            let mut theirs = Theirs { alloc, forwarded: start, sent: start };
            for step in moves {
                match step {
                    Move::Send(len) => {
                        let len = len.min(theirs.credit()).min(own.saturating_sub(theirs.out()));
                        theirs.send(len);
                        prop_assert!(ours.receive(len));
                    }
                    Move::Forward(len) => ours.forward(len.min(ours.held())),
                    Move::Tell => {
                        let more = ours.wants();
                        ours.grow(more);
                        let (alloc, forwarded) = ours.word();
                        prop_assert!(theirs.update(alloc, forwarded));
                        ours.tell(forwarded);
                    }
                    Move::Keep => drop(ours.word()),
                }
                prop_assert!(ours.held() <= ours.alloc());
                let all = ours.held() == 0;
                let may_send = theirs.credit() > 0 && theirs.out() < own;
                prop_assert!(may_send || !all || ours.is_news(own), "{ours:?} {theirs:?}");
            }
        }
    }
}
