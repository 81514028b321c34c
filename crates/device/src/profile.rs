//! What a device is, as data: identity, feature bits, queues. Trusted: it comes from the device author.

use outboard_virtio_defs::DeviceId;

/// A set of VirtIO feature bits (VIRTIO 1.3, 2.2), bit n for feature n. Constants in [`outboard_virtio_defs`] are masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// True if all bits of `mask` are in the set.
    #[must_use]
    pub const fn has(self, mask: u64) -> bool {
        self.0 & mask == mask
    }

    /// The set with the bits of `mask` added.
    #[must_use]
    pub const fn with(self, mask: u64) -> Self {
        Self(self.0 | mask)
    }
}

/// A set of queues that one handler, and so one thread, serves together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub u16);

/// One virtqueue of a device.
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec {
    /// The queue's name in the VirtIO specification, for logs and tools.
    pub name: &'static str,
    /// The largest ring that the device is made for, in descriptors, 1 to 32768: in-flight records are made for so
    /// many. Front ends that do not know it may set up larger ones, which are served too.
    pub max_size: u16,
    /// The group that serves it.
    pub group: Group,
}

/// What a device is. The framework adds the ring features that it implements itself.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The VirtIO device id (VIRTIO 1.3, 5).
    pub id: DeviceId,
    /// A short name for logs and tools: `rng`, `blk`.
    pub name: &'static str,
    /// Device-specific feature bits.
    pub features: Features,
    /// The queues by index.
    pub queues: Vec<QueueSpec>,
    /// Whether VIRTIO_F_IN_ORDER is offered. It suits handlers that finish each request at once: completions that
    /// come early are held back until those before them are done (VIRTIO 1.3, 2.7.9).
    pub in_order: bool,
    /// Whether the device is part of a network: [`crate::Device::set_mtu`] and [`crate::Device::announce`] are offered.
    pub network: bool,
}

impl Profile {
    /// A profile without features and queues.
    #[must_use]
    pub fn new(id: DeviceId, name: &'static str) -> Self {
        Self { id, name, features: Features::default(), queues: Vec::new(), in_order: false, network: false }
    }

    /// Adds the feature bits of `mask`, as in [`outboard_virtio_defs`].
    #[must_use]
    pub fn feature(mut self, mask: u64) -> Self {
        self.features = self.features.with(mask);
        self
    }

    /// Offers VIRTIO_F_IN_ORDER.
    #[must_use]
    pub fn in_order(mut self) -> Self {
        self.in_order = true;
        self
    }

    /// Offers what the protocol has for networks: NET_SET_MTU and SEND_RARP.
    #[must_use]
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    /// Adds a queue to the group of the queue before it (the first queue: to group 0).
    #[must_use]
    pub fn queue(mut self, name: &'static str, max_size: u16) -> Self {
        let group = self.queues.last().map_or(Group(0), |last| last.group);
        self.queues.push(QueueSpec { name, max_size, group });
        self
    }

    /// Adds `count` queues, each in a group, and so on a thread, of its own.
    #[must_use]
    pub fn parallel_queues(mut self, name: &'static str, max_size: u16, count: u16) -> Self {
        let first = self.queues.last().map_or(0, |last| last.group.0 + 1);
        self.queues.extend((first..first + count).map(|group| QueueSpec {
            name,
            max_size,
            group: Group(group),
        }));
        self
    }
}
