//! A file of registers, a byte each: a write says which is meant, what follows goes into it and those behind it. It counts
//! on and begins anew behind the last.

use super::{Part, byte_of};

/// See the module.
pub(super) struct Registers {
    bytes: Vec<u8>,
    place: usize,
    /// The next byte says which register is meant.
    addressed: bool,
}

impl Registers {
    pub(super) fn new(count: usize) -> Self {
        Self { bytes: vec![0; count], place: 0, addressed: false }
    }

    fn next(&mut self) {
        self.place = (self.place + 1) % self.bytes.len();
    }
}

impl Part for Registers {
    fn name(&self) -> &'static str {
        "registers"
    }

    fn start(&mut self, read: bool) {
        self.addressed = !read;
    }

    /// A register that there is not is not acknowledged.
    fn write(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.addressed) {
            let is_there = usize::from(byte) < self.bytes.len();
            if is_there {
                self.place = byte.into();
            }
            return is_there;
        }
        if let Some(register) = self.bytes.get_mut(self.place) {
            *register = byte;
        }
        self.next();
        true
    }

    fn read(&mut self) -> u8 {
        let byte = self.bytes.get(self.place).copied().unwrap_or(0);
        self.next();
        byte
    }

    fn set(&mut self, register: u64, value: u64) -> Result<(), String> {
        let value = byte_of(value)?;
        let place = usize::try_from(register).ok().and_then(|at| self.bytes.get_mut(at));
        *place.ok_or_else(|| format!("there is no register {register}"))? = value;
        Ok(())
    }

    fn dump(&self) -> Vec<u16> {
        self.bytes.iter().copied().map(u16::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_count_on_and_begin_anew() {
        let mut part = Registers::new(4);
        part.start(false);
        assert!([2, 1, 2, 3].iter().all(|&byte| part.write(byte)));
        assert_eq!(part.dump(), [3, 0, 1, 2]);
        part.start(true);
        assert_eq!([part.read(), part.read(), part.read(), part.read()], [0, 1, 2, 3]);
        part.start(false);
        assert!(!part.write(4), "there is no register 4");
    }
}
