//! Devices whose control half has nothing to say.

use crate::{Device, DeviceError, Features, Group, Handler, Profile};

/// A device without configuration space, whose handlers are all alike: copies of one.
pub struct Uniform<H> {
    profile: Profile,
    handler: H,
}

impl<H: Handler + Clone> Uniform<H> {
    /// A device that serves each of its groups with a copy of `handler`. What a reset must not renew is either
    /// shared between the copies, or set up in [`Handler::start`].
    #[must_use]
    pub fn new(profile: Profile, handler: H) -> Self {
        Self { profile, handler }
    }
}

impl<H: Handler + Clone> Device for Uniform<H> {
    type Handler = H;

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn handler(&mut self, _: Group, _: Features) -> Result<H, DeviceError> {
        Ok(self.handler.clone())
    }
}
