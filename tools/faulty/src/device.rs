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

    /// Carries a request out. Returns how many bytes of its writable part were written, from the first on.
    fn serve(&mut self, chain: &mut Chain) -> u32;

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
