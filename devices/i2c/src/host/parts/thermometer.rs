//! A thermometer as the LM75: a pointer, then registers of 16 bits, the highest first; the configuration has 8.

use super::Part;

/// See the module.
pub(super) struct Thermometer {
    /// Temperature, configuration, hysteresis, limit; temperatures in steps of 1/256 degree.
    registers: [u16; 4],
    pointer: usize,
    /// Bytes since the start.
    position: usize,
    /// What was written of a register that has two bytes.
    high: u8,
    reading: bool,
}

const TEMPERATURE: usize = 0;
const CONFIGURATION: usize = 1;
/// What of a temperature the chip keeps: 9 bits.
const KEPT: u16 = 0xff80;

impl Default for Thermometer {
    /// 25, 75 and 80 degrees.
    fn default() -> Self {
        let registers = [25 << 8, 0, 75 << 8, 80 << 8];
        Self { registers, pointer: 0, position: 0, high: 0, reading: false }
    }
}

impl Part for Thermometer {
    fn name(&self) -> &'static str {
        "thermometer"
    }

    fn start(&mut self, read: bool) {
        (self.reading, self.position) = (read, 0);
    }

    fn write(&mut self, byte: u8) -> bool {
        let position = self.position;
        self.position += 1;
        match (position, self.pointer) {
            (0, _) => self.pointer = usize::from(byte & 3),
            (1, CONFIGURATION) => self.registers[CONFIGURATION] = u16::from(byte & 0x1f),
            (1, _) => self.high = byte,
            (2, pointer @ 2..) => {
                if let Some(register) = self.registers.get_mut(pointer) {
                    *register = u16::from_be_bytes([self.high, byte]) & KEPT;
                }
            }
            // The temperature is not to be written, and nothing has more bytes.
            _ => {}
        }
        true
    }

    fn read(&mut self) -> u8 {
        let register = self.registers.get(self.pointer).copied().unwrap_or(0);
        let [high, low] = register.to_be_bytes();
        let position = self.position;
        self.position += 1;
        if self.pointer == CONFIGURATION || position % 2 == 1 { low } else { high }
    }

    fn set(&mut self, register: u64, value: u64) -> Result<(), String> {
        let place = usize::try_from(register).ok().and_then(|at| self.registers.get_mut(at));
        let place = place.ok_or_else(|| format!("there is no register {register}"))?;
        *place = u16::try_from(value).map_err(|_| format!("{value} does not fit the register"))?;
        Ok(())
    }

    fn set_temperature(&mut self, celsius: f64) -> Result<(), String> {
        if !(-128.0..=127.5).contains(&celsius) {
            return Err("it takes -128 to 127.5".to_owned());
        }
        self.registers[TEMPERATURE] = (celsius * 256.0).round() as i16 as u16 & KEPT;
        Ok(())
    }

    fn dump(&self) -> Vec<u16> {
        self.registers.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(part: &mut Thermometer, bytes: &[u8]) {
        part.start(false);
        assert!(bytes.iter().all(|&byte| part.write(byte)));
    }

    fn read<const N: usize>(part: &mut Thermometer, pointer: u8) -> [u8; N] {
        write(part, &[pointer]);
        part.start(true);
        std::array::from_fn(|_| part.read())
    }

    #[test]
    fn temperatures_are_in_halves_of_a_degree() {
        let mut part = Thermometer::default();
        for (celsius, bytes) in
            [(25.0, [25, 0]), (21.5, [21, 0x80]), (-0.5, [0xff, 0x80]), (-55.0, [0xc9, 0]), (20.3, [20, 0])]
        {
            part.set_temperature(celsius).unwrap();
            assert_eq!(read(&mut part, 0), bytes, "{celsius}");
        }
        assert!(part.set_temperature(128.0).is_err() && part.set_temperature(f64::NAN).is_err());
    }

    #[test]
    fn registers_are_as_wide_as_the_chip_has_them() {
        let mut part = Thermometer::default();
        write(&mut part, &[1, 0xff]);
        assert_eq!(read(&mut part, 1), [0x1f, 0x1f]);
        write(&mut part, &[3, 90, 0xff]);
        assert_eq!(read(&mut part, 3), [90, 0x80, 90]);
        write(&mut part, &[2, 70]);
        assert_eq!(read(&mut part, 2), [75, 0], "half of a register is none");
        write(&mut part, &[0, 1, 1]);
        assert_eq!(read(&mut part, 0), [25, 0], "a temperature is measured, not written");
        part.set(3, 0x5a80).unwrap();
        assert_eq!(part.dump(), [25 << 8, 0x1f, 75 << 8, 0x5a80]);
    }
}
