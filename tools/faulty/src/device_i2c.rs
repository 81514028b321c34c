//! The I2C adapter (VIRTIO 1.3, 5.16), with one chip: an EEPROM of 256 bytes at 0x50.

use std::time::{Duration, Instant};

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

/// The chip's address, as a request has it.
const CHIP: u16 = 0x50 << 1;
const ZERO_LENGTH: u64 = 1;
const FAIL_NEXT: u32 = 1;
const READ: u32 = 2;
const OK: u8 = 0;
const ERR: u8 = 1;
/// Bytes of a header.
const HEADER: u64 = 8;
/// The longest message, in bytes.
const LONGEST: u64 = 8192;
/// What is further apart came by several kicks.
const LULL: Duration = Duration::from_millis(10);

pub(crate) struct I2c {
    faults: Faults,
    agreed: u64,
    chip: Vec<u8>,
    place: u8,
    /// Of the group whose end has not come: whether one has failed.
    failed: bool,
    /// And the status of its first.
    first: Option<u8>,
    last: Instant,
    /// A write that is carried out after the next.
    late: Option<Vec<u8>>,
}

impl I2c {
    pub(crate) fn new(faults: Faults) -> Self {
        let (chip, last) = (vec![0xff; 256], Instant::now());
        Self { faults, agreed: 0, chip, place: 0, failed: false, first: None, last, late: None }
    }

    /// What is right with a request but for who is meant: whether it reads, and how much data it has.
    fn judge(&self, flags: u32, chain: &Chain) -> Option<(bool, u64)> {
        let (readable, room) = (chain.readable_len() - HEADER, chain.writable_len() - 1);
        let read = flags & READ != 0;
        let (len, other) = if read { (room, readable) } else { (readable, room) };
        if flags & !(FAIL_NEXT | READ) != 0 && !self.faults.has(Fault::I2cFlagsTaken) {
            return None;
        }
        if other > 0 && !self.faults.has(Fault::I2cDirectionTrusted) {
            return None;
        }
        if len > LONGEST && self.faults.has(Fault::I2cHugeDies) {
            die();
        }
        if len == 0 && self.faults.has(Fault::I2cZeroRefused) {
            return None;
        }
        let without = self.agreed & ZERO_LENGTH == 0 && !self.faults.has(Fault::I2cAnyDriver);
        (len <= LONGEST && !without).then_some((read, len))
    }

    fn is_chip(&self, addr: u16) -> bool {
        let ten = addr & 0xf9 == 0xf0;
        if ten && self.faults.has(Fault::I2cTenBitCut) {
            return addr >> 8 & 0x7f == CHIP >> 1;
        }
        let addr = if self.faults.has(Fault::I2cAddressUnchecked) && !ten { addr & 0xfe } else { addr };
        addr == CHIP || self.faults.has(Fault::I2cAbsentOk)
    }

    fn write(&mut self, data: &[u8]) {
        let Some((&place, rest)) = data.split_first() else { return };
        self.place = place;
        for &byte in rest {
            if let Some(cell) = self.chip.get_mut(usize::from(self.place)) {
                *cell = byte;
            }
            self.place = self.place.wrapping_add(1);
        }
    }

    /// Carries a message out; what it reads.
    fn converse(&mut self, read: bool, len: u64, chain: &mut Chain) -> Vec<u8> {
        if read {
            if self.faults.has(Fault::I2cNoRepeatedStart) {
                self.place = 0;
            }
            let byte =
                |nth: u64| self.chip.get((u64::from(self.place) + nth) as usize % 256).copied().unwrap_or(0);
            let data = (0..len).map(byte).collect();
            self.place = self.place.wrapping_add(len as u8);
            return data;
        }
        let mut data = vec![0; len as usize];
        chain.read(HEADER, &mut data);
        if self.faults.has(Fault::I2cWriteBufferChanged) {
            chain.readable(HEADER, len).iter().for_each(|piece| piece.fill(!0));
        }
        if self.faults.has(Fault::I2cOrderSwapped) && data.len() > 1 {
            match self.late.take() {
                None => self.late = Some(data),
                Some(late) => {
                    self.write(&data);
                    self.write(&late);
                }
            }
        } else {
            self.write(&data);
        }
        Vec::new()
    }

    /// The status of a request with this header, and what it reads.
    fn execute(&mut self, addr: u16, flags: u32, chain: &mut Chain) -> (u8, Vec<u8>) {
        let by_kick = self.last.elapsed() > LULL && self.faults.has(Fault::I2cGroupsByKick);
        self.last = Instant::now();
        if std::mem::take(&mut self.failed) && !by_kick && !self.faults.has(Fault::I2cFailNextIgnored) {
            return (ERR, Vec::new());
        }
        match self.judge(flags, chain).filter(|_| self.is_chip(addr)) {
            Some((false, _)) if self.faults.has(Fault::I2cStatusErr) => (ERR, Vec::new()),
            Some((read, len)) => (OK, self.converse(read, len, chain)),
            None => (ERR, Vec::new()),
        }
    }
}

impl Device for I2c {
    fn features(&self) -> u64 {
        if self.faults.has(Fault::I2cNoZeroLength) { 0 } else { ZERO_LENGTH }
    }

    fn queues(&self) -> u16 {
        1
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("no configuration at {offset}"))
    }

    fn serve(&mut self, _: u16, chain: &mut Chain) -> u32 {
        let status_at = match chain.writable_len().checked_sub(1) {
            Some(at) => at,
            None if self.faults.has(Fault::I2cNoStatusDies) => die(),
            None => return 0,
        };
        let counted = self.faults.has(Fault::I2cBuffersCounted) && chain.lengths().next() != Some(8);
        let mut header = [0; HEADER as usize];
        if !chain.read(0, &mut header) || counted {
            chain.write(status_at, &[ERR]);
            return 1;
        }
        let [a, b, _, _, c, d, e, f] = header;
        let (addr, flags) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([c, d, e, f]));
        let tied = flags & FAIL_NEXT != 0;
        let (mut status, data) = self.execute(addr, flags, chain);
        let failed = status != OK;
        let stays = tied || self.faults.has(Fault::I2cFailNextForEver);
        self.failed = failed && stays;
        if self.faults.has(Fault::I2cWholeBatchOneStatus) {
            status = *self.first.get_or_insert(status);
        }
        if !tied {
            self.first = None;
        }
        chain.write(0, &data);
        chain.write(status_at, &[status]);
        match data.len() as u32 {
            len if self.faults.has(Fault::I2cLengthWithoutStatus) => len,
            len => len + 1,
        }
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn reset(&mut self) {}

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        self.chip.clone()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        if state.len() != self.chip.len() {
            return Err("not the state of an I2C adapter".to_owned());
        }
        state.clone_into(&mut self.chip);
        Ok(())
    }
}
