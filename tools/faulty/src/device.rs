//! What a device is, to the rings and the messages.

use crate::chain::Chain;
use crate::memory::Bad;

/// A device: its data, its configuration, and what it does with a request. It outlives connections.
pub(crate) trait Device {
    /// The virtio feature bits of its own.
    fn features(&self) -> u64;

    /// How many rings it has.
    fn queues(&self) -> u16;

    /// The configuration space as it is now.
    fn config(&self) -> Vec<u8>;

    /// A write of the driver to the configuration space.
    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad>;

    /// Carries a request of a queue out. Returns how many bytes of its writable part were written, from the first on.
    fn serve(&mut self, queue: u16, chain: &mut Chain) -> u32;

    /// Whether the requests of a queue wait for something to be there for the driver.
    fn fills(&self, queue: u16) -> bool {
        let _ = queue;
        false
    }

    /// Gives the driver what there is for it, in requests that wait, and returns which of them it has written to, and how many
    /// bytes: they are returned at once, in this order. What there is no room for is dropped. `None`: nothing is left.
    fn fill(&mut self, queue: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        let _ = (queue, waiting);
        None
    }

    /// Whether there may be something for the driver that it has not asked for: looked for every 10 ms.
    fn pushes(&self) -> bool {
        false
    }

    /// Whether the driver is not called for what happens on a queue.
    fn holds_calls(&self, queue: u16) -> bool {
        let _ = queue;
        false
    }

    /// Whether it is part of a network.
    fn is_network(&self) -> bool {
        false
    }

    /// The longest packet, in bytes.
    fn set_mtu(&mut self, mtu: u64) -> Result<(), Bad> {
        Err(format!("no MTU, and so not {mtu}"))
    }

    /// Takes the features that were agreed on.
    fn agree(&mut self, features: u64);

    /// Forgets what the driver set.
    fn reset(&mut self);

    /// Looks at the host's side again; true if the configuration changed.
    fn refresh(&mut self) -> bool;

    /// Its own part of the state that moves with the guest.
    fn save(&self) -> Vec<u8>;

    /// Takes such a state over.
    fn load(&mut self, state: &[u8]) -> Result<(), Bad>;
}
