//! Whether the other side wants to hear of what was just published: the arithmetic of event suppression, the same
//! for kicks and calls. The event values come from the peer; any value gives an answer, at worst one signal too
//! many or, to a peer that asks for it, too few.

/// Split rings: whether going from `old` to `new` passed the index that the peer waits for
/// (VIRTIO 1.3, 2.7.7.2 and 2.7.10). Wrap-safe as long as fewer than 65536 entries lie between.
#[inline]
pub(crate) const fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// What a packed ring's event suppression area asks for (VIRTIO 1.3, 2.8.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Every,
    None,
    /// The descriptor with this index, in the lap with this wrap counter.
    At(u16, bool),
}

/// Flags of an event suppression area.
pub(crate) const EVENT_ENABLE: u16 = 0;
pub(crate) const EVENT_DISABLE: u16 = 1;
pub(crate) const EVENT_DESC: u16 = 2;

impl Wanted {
    /// Decodes an area: offset and wrap in the low half, flags in the high one. The specific descriptor counts
    /// only with EVENT_IDX; a reserved value means every event.
    #[inline]
    pub(crate) const fn decode(area: u32, event_idx: bool) -> Self {
        match (area >> 16) as u16 & 3 {
            EVENT_DISABLE => Self::None,
            EVENT_DESC if event_idx => Self::At(area as u16 & 0x7fff, area & 0x8000 != 0),
            _ => Self::Every,
        }
    }

    /// Whether the last `since` descriptors, up to but without `index` in the lap with `wrap`, have one that is
    /// waited for.
    #[inline]
    pub(crate) const fn within(self, since: u32, index: u16, wrap: bool, size: u16) -> bool {
        match self {
            Self::Every => true,
            Self::None => false,
            Self::At(_, _) if since > size as u32 => true,
            Self::At(event, event_wrap) => {
                // How far behind us the event lies. In the other lap of the two that wrap counters tell apart, it
                // lies a ring's size further back.
                let lap = if event_wrap == wrap { 0 } else { size as i32 };
                let behind = index as i32 - event as i32 + lap;
                behind >= 1 && behind <= since as i32
            }
        }
    }
}

/// Calls and kicks so far: how much was published since the last decision, and whether there was one.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    since: u32,
    decided: bool,
}

impl Pending {
    /// `count` more entries (split) or descriptors (packed) were published.
    #[inline]
    pub(crate) fn add(&mut self, count: u32) {
        self.since = self.since.saturating_add(count);
    }

    /// What was published since the last decision, which this is: `None` for nothing, [`u32::MAX`] the first
    /// time, since nobody knows what the peer saw before.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u32> {
        if self.since == 0 {
            return None;
        }
        let since = if self.decided { self.since } else { u32::MAX };
        self.since = 0;
        self.decided = true;
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_counts_exactly_the_entries_between() {
        for old in [0_u16, 1, 32767, 32768, 65530, 65535] {
            for count in [0_u16, 1, 2, 100, 32768] {
                let new = old.wrapping_add(count);
                for offset in [0_u16, 1, 2, 99, 100, 101, 32767, 32768, 40000, 65535] {
                    let event = old.wrapping_add(offset);
                    assert_eq!(passed(event, new, old), offset < count, "{old} {count} {offset}");
                }
            }
        }
    }

    #[test]
    fn within_agrees_with_a_walk_over_the_ring() {
        for size in [1_u16, 2, 3, 5, 8] {
            for end in 0..4 * u32::from(size) {
                let (index, wrap) = ((end % u32::from(size)) as u16, end / u32::from(size) % 2 == 0);
                for since in 0..=u32::from(size).min(end) {
                    for event in 0..size {
                        for event_wrap in [false, true] {
                            let walked = (end - since..end).any(|at| {
                                (at % u32::from(size)) as u16 == event
                                    && (at / u32::from(size) % 2 == 0) == event_wrap
                            });
                            let wanted = Wanted::At(event, event_wrap);
                            assert_eq!(
                                wanted.within(since, index, wrap, size),
                                walked,
                                "size {size} end {end} since {since} event {event} {event_wrap}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn decode_honours_a_specific_descriptor_only_with_event_idx() {
        assert_eq!(Wanted::decode(0x0002_8005, true), Wanted::At(5, true));
        assert_eq!(Wanted::decode(0x0002_8005, false), Wanted::Every);
        assert_eq!(Wanted::decode(0x0001_0000, true), Wanted::None);
        assert_eq!(Wanted::decode(0x0003_0000, true), Wanted::Every);
    }

    #[test]
    fn first_decision_is_unlimited_and_nothing_published_needs_none() {
        let mut pending = Pending::default();
        assert_eq!(pending.take(), None);
        pending.add(2);
        assert_eq!(pending.take(), Some(u32::MAX));
        assert_eq!(pending.take(), None);
        pending.add(3);
        assert_eq!(pending.take(), Some(3));
    }
}
