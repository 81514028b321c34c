//! A zone and its states (VIRTIO 1.3, 5.2.6).
//!
//! Pure, and believes nothing: what a zone was left like is made one that can be.

use outboard_device::defs::blk::{
    ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZS_NOT_WP, ZS_OFFLINE, ZS_RDONLY,
};

use super::layout::Kind;

/// A zone's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    NotWp = ZS_NOT_WP,
    Empty = ZS_EMPTY,
    ImplicitlyOpen = ZS_IOPEN,
    ExplicitlyOpen = ZS_EOPEN,
    Closed = ZS_CLOSED,
    ReadOnly = ZS_RDONLY,
    Full = ZS_FULL,
    Offline = ZS_OFFLINE,
}

impl State {
    /// From the specification's number.
    pub(crate) const fn of(code: u8) -> Option<Self> {
        Some(match code {
            ZS_NOT_WP => Self::NotWp,
            ZS_EMPTY => Self::Empty,
            ZS_IOPEN => Self::ImplicitlyOpen,
            ZS_EOPEN => Self::ExplicitlyOpen,
            ZS_CLOSED => Self::Closed,
            ZS_RDONLY => Self::ReadOnly,
            ZS_FULL => Self::Full,
            ZS_OFFLINE => Self::Offline,
            _ => return None,
        })
    }

    pub(super) const fn is_open(self) -> bool {
        matches!(self, Self::ImplicitlyOpen | Self::ExplicitlyOpen)
    }

    pub(super) const fn is_active(self) -> bool {
        matches!(self, Self::ImplicitlyOpen | Self::ExplicitlyOpen | Self::Closed)
    }
}

/// A zone. Positions and lengths in sectors, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Zone {
    pub(crate) kind: Kind,
    pub(crate) state: State,
    /// How much can be written.
    pub(crate) capacity: u32,
    /// Where the next write goes; at the end of the capacity if full.
    pub(crate) pointer: u32,
    /// What the pointer was when the last write was settled, or more.
    pub(crate) done: u32,
    /// Writes admitted and not settled.
    pub(super) under_way: u32,
    /// Being emptied, or in the hands of the host: nothing else happens to it.
    pub(super) held: bool,
    /// There may be data behind the pointer: nothing is admitted until it is gone.
    pub(super) spoilt: bool,
}

impl Zone {
    pub(crate) const fn conventional(capacity: u32) -> Self {
        Self {
            kind: Kind::Conventional,
            state: State::NotWp,
            capacity,
            pointer: 0,
            done: 0,
            under_way: 0,
            held: false,
            spoilt: false,
        }
    }

    /// A sequential one, as it was left. What cannot be is made right: a pointer at the end means full.
    pub(crate) fn sequential(capacity: u32, state: State, pointer: u32) -> Self {
        let pointer = pointer.min(capacity);
        let (state, pointer) = match state {
            State::Full => (State::Full, capacity),
            State::Empty | State::NotWp => (State::Empty, 0),
            State::ReadOnly | State::Offline => (state, pointer),
            _ if pointer == capacity => (State::Full, capacity),
            State::ImplicitlyOpen | State::Closed if pointer == 0 => (State::Empty, 0),
            State::ImplicitlyOpen | State::ExplicitlyOpen | State::Closed => (state, pointer),
        };
        let done = pointer;
        Self {
            kind: Kind::Sequential,
            state,
            capacity,
            pointer,
            done,
            under_way: 0,
            held: false,
            spoilt: false,
        }
    }

    /// What is under way in it has to end before anything else is admitted.
    pub(super) const fn is_blocked(&self) -> bool {
        self.held || self.spoilt
    }
}

/// Zones of `zone` sectors that were never written, the first of them conventional.
pub(super) fn fresh(zone: u32, capacity: u32, conventional: u32, count: u32) -> impl Iterator<Item = Zone> {
    (0..count).map(move |at| {
        if at < conventional { Zone::conventional(zone) } else { Zone::sequential(capacity, State::Empty, 0) }
    })
}
