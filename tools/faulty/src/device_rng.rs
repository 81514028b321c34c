//! The entropy device (VIRTIO 1.3, 5.4).

use rustix::rand::{GetRandomFlags, getrandom};

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

/// The most bytes of one request that are filled.
const LONGEST: u64 = 64 << 10;

pub(crate) struct Rng {
    faults: Faults,
    queues: u16,
    /// Bytes given out so far: what migrates.
    given: u64,
}

impl Rng {
    pub(crate) fn new(queues: u16, faults: Faults) -> Self {
        Self { faults, queues, given: 0 }
    }
}

impl Device for Rng {
    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("no configuration at {offset}"))
    }

    fn serve(&mut self, _: u16, chain: &mut Chain) -> u32 {
        if chain.readable_len() > 0 && self.faults.has(Fault::RngReadableCrashes) {
            die();
        }
        let wanted = chain.writable_len().min(LONGEST);
        let mut bytes = vec![0; wanted as usize];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let Ok(count) = getrandom(rest, GetRandomFlags::empty()) else { break };
            filled += count;
        }
        if self.faults.has(Fault::RngConstant) {
            bytes.fill(0x5a);
        }
        if self.faults.has(Fault::RngRepeats) {
            let byte = |nth: usize| (nth as u32).wrapping_mul(0x9e37_79b9).to_be_bytes()[0];
            bytes.iter_mut().enumerate().for_each(|(nth, place)| *place = byte(nth));
        }
        if self.faults.has(Fault::RngShortWrite) {
            bytes.truncate(filled / 2);
        }
        chain.write(0, &bytes);
        self.given = self.given.wrapping_add(filled as u64);
        filled as u32
    }

    fn agree(&mut self, _: u64) {}

    fn reset(&mut self) {}

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        self.given.to_le_bytes().to_vec()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        let state = state.try_into().map_err(|_| "not the state of an entropy device".to_owned())?;
        self.given = u64::from_le_bytes(state);
        Ok(())
    }
}
