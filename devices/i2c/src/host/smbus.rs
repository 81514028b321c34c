//! What a transaction is in the words of SMBus, for adapters that know nothing else: pure.
//!
//! On the wire a write is what it is: of several calls that look the same there, the first that the adapter has is taken. A
//! read tells how long it is only by the call.

use super::ioctl::SmbusData;
use super::ioctl::functions as can;

/// Most bytes of a block.
const BLOCK: usize = 32;
/// What is read where nothing answers.
const IDLE: u8 = 0xff;

/// Which call: `I2C_SMBUS_*` of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Quick = 0,
    Byte = 1,
    ByteData = 2,
    WordData = 3,
    ProcCall = 4,
    BlockData = 5,
    BlockProcCall = 7,
    I2cBlockData = 8,
}

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) form: Form,
    pub(super) read: bool,
    pub(super) command: u8,
    pub(super) data: SmbusData,
}

/// A message of a transaction: what it writes, or how much it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move<'a> {
    Write(&'a [u8]),
    Read(usize),
}

/// The call that is such a transaction with one chip, for an adapter that can do so much; `None` if there is none. Calls
/// with a checksum are never blocks of I2C, which have none.
pub(super) fn call(moves: &[Move<'_>], functions: u64, pec: bool) -> Option<Call> {
    let has = |function: u64| functions & function != 0;
    let i2c_blocks = |function: u64| has(function) && !pec;
    let plain = |form, read, command, data: &[u8]| Some(Call { form, read, command, data: union(data) });
    let block = |form, read, command, data: &[u8]| {
        let mut bytes = vec![data.len() as u8];
        bytes.extend_from_slice(data);
        plain(form, read, command, &bytes)
    };
    match *moves {
        [Move::Write([])] if has(can::QUICK) => plain(Form::Quick, false, 0, &[]),
        [Move::Read(0)] if has(can::QUICK) => plain(Form::Quick, true, 0, &[]),
        [Move::Read(1)] if has(can::READ_BYTE) => plain(Form::Byte, true, 0, &[]),
        [Move::Write(&[byte])] if has(can::WRITE_BYTE) => plain(Form::Byte, false, byte, &[]),
        [Move::Write(&[command, byte])] if has(can::WRITE_BYTE_DATA) => {
            plain(Form::ByteData, false, command, &[byte])
        }
        [Move::Write(&[command, low, high])] if has(can::WRITE_WORD_DATA) => {
            plain(Form::WordData, false, command, &u16::from_le_bytes([low, high]).to_ne_bytes())
        }
        [Move::Write(&[command, ref data @ ..])]
            if i2c_blocks(can::WRITE_I2C_BLOCK) && (1..=BLOCK).contains(&data.len()) =>
        {
            block(Form::I2cBlockData, false, command, data)
        }
        [Move::Write(&[command, count, ref data @ ..])]
            if has(can::WRITE_BLOCK_DATA) && is_block(count, data) =>
        {
            block(Form::BlockData, false, command, data)
        }
        [Move::Write(&[command]), Move::Read(1)] if has(can::READ_BYTE_DATA) => {
            plain(Form::ByteData, true, command, &[])
        }
        [Move::Write(&[command]), Move::Read(2)] if has(can::READ_WORD_DATA) => {
            plain(Form::WordData, true, command, &[])
        }
        [Move::Write(&[command]), Move::Read(len @ 1..=BLOCK)] if i2c_blocks(can::READ_I2C_BLOCK) => {
            plain(Form::I2cBlockData, true, command, &[len as u8])
        }
        [Move::Write(&[command]), Move::Read(2..)] if has(can::READ_BLOCK_DATA) => {
            plain(Form::BlockData, true, command, &[])
        }
        [Move::Write(&[command, low, high]), Move::Read(2)] if has(can::PROC_CALL) => {
            plain(Form::ProcCall, false, command, &u16::from_le_bytes([low, high]).to_ne_bytes())
        }
        [Move::Write(&[command, count, ref data @ ..]), Move::Read(2..)]
            if has(can::BLOCK_PROC_CALL) && is_block(count, data) =>
        {
            block(Form::BlockProcCall, false, command, data)
        }
        _ => None,
    }
}

/// Whether a count of SMBus goes before so much data.
fn is_block(count: u8, data: &[u8]) -> bool {
    usize::from(count) == data.len() && (1..=BLOCK).contains(&data.len())
}

fn union(bytes: &[u8]) -> SmbusData {
    let mut data = [0; 34];
    data.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    data
}

/// What a call has brought, as the read of the transaction would have: behind the end of a block nothing answers.
pub(super) fn brought(call: Call, data: &SmbusData, into: &mut [u8]) {
    let word;
    let bytes: &[u8] = match call.form {
        Form::Quick => &[],
        Form::Byte | Form::ByteData => data,
        Form::WordData | Form::ProcCall => {
            word = u16::from_ne_bytes([data[0], data[1]]).to_le_bytes();
            &word
        }
        Form::I2cBlockData => data.get(1..).unwrap_or_default(),
        // The count is read, too.
        Form::BlockData | Form::BlockProcCall => {
            data.get(..1 + usize::from(data[0]).min(BLOCK)).unwrap_or_default()
        }
    };
    let rest = bytes.iter().copied().chain(std::iter::repeat(IDLE));
    into.iter_mut().zip(rest).for_each(|(place, byte)| *place = byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = !0;

    fn form(moves: &[Move<'_>], functions: u64, pec: bool) -> Option<(Form, bool, u8, Vec<u8>)> {
        let Call { form, read, command, data } = call(moves, functions, pec)?;
        let len = match form {
            Form::Quick => 0,
            Form::Byte | Form::ByteData => 1,
            Form::WordData | Form::ProcCall => 2,
            _ => 1 + usize::from(data[0]),
        };
        Some((form, read, command, data[..len].to_vec()))
    }

    #[test]
    fn transactions_are_the_calls_that_look_the_same_on_the_wire() {
        use Form::*;
        use Move::{Read, Write};
        let long: Vec<u8> = (0..34).collect();
        let word = 0x0201_u16.to_ne_bytes().to_vec();
        let no_i2c_blocks = !(can::WRITE_I2C_BLOCK | can::READ_I2C_BLOCK);
        type Row<'a> = (&'a [Move<'a>], u64, bool, Option<(Form, bool, u8, Vec<u8>)>);
        let table: &[Row<'_>] = &[
            (&[Write(&[])], ALL, false, Some((Quick, false, 0, vec![]))),
            (&[Read(0)], ALL, false, Some((Quick, true, 0, vec![]))),
            (&[Read(1)], ALL, false, Some((Byte, true, 0, vec![0]))),
            (&[Write(&[7])], ALL, false, Some((Byte, false, 7, vec![0]))),
            (&[Write(&[7, 1])], ALL, false, Some((ByteData, false, 7, vec![1]))),
            (&[Write(&[7, 1, 2])], ALL, false, Some((WordData, false, 7, word.clone()))),
            (&[Write(&[7, 1, 2, 3])], ALL, false, Some((I2cBlockData, false, 7, vec![3, 1, 2, 3]))),
            (&[Write(&[7, 2, 2, 3])], no_i2c_blocks, false, Some((BlockData, false, 7, vec![2, 2, 3]))),
            (&[Write(&[7, 2, 2, 3])], ALL, true, Some((BlockData, false, 7, vec![2, 2, 3]))),
            (&[Write(&[7, 3, 2, 3])], no_i2c_blocks, false, None),
            (
                &[Write(&[7, 1, 2])],
                no_i2c_blocks & !can::WRITE_WORD_DATA,
                false,
                Some((BlockData, false, 7, vec![1, 2])),
            ),
            (&[Write(&[7]), Read(1)], ALL, false, Some((ByteData, true, 7, vec![0]))),
            (&[Write(&[7]), Read(2)], ALL, false, Some((WordData, true, 7, vec![0, 0]))),
            (
                &[Write(&[7]), Read(8)],
                ALL,
                false,
                Some((I2cBlockData, true, 7, [&[8][..], &[0; 8]].concat())),
            ),
            (
                &[Write(&[7]), Read(1)],
                ALL & !can::READ_BYTE_DATA,
                false,
                Some((I2cBlockData, true, 7, vec![1, 0])),
            ),
            (&[Write(&[7]), Read(33)], ALL, false, Some((BlockData, true, 7, vec![0]))),
            (&[Write(&[7]), Read(8)], ALL, true, Some((BlockData, true, 7, vec![0]))),
            (&[Write(&[7]), Read(8)], no_i2c_blocks & !can::READ_BLOCK_DATA, false, None),
            (&[Write(&[7, 1, 2]), Read(2)], ALL, false, Some((ProcCall, false, 7, word))),
            (&[Write(&[7, 2, 1, 2]), Read(9)], ALL, false, Some((BlockProcCall, false, 7, vec![2, 1, 2]))),
            (&[Write(&[7, 3, 1, 2]), Read(9)], ALL, false, None),
            (&[Write(&[7, 0]), Read(2)], ALL, false, None),
            (&[Write(&[0, 7]), Read(1)], ALL, false, None),
            (&[Write(&long)], ALL, false, None),
            (
                &[Write(&long[..33])],
                ALL,
                false,
                Some((I2cBlockData, false, 0, [&[32], &long[1..33]].concat())),
            ),
            (&[Read(2)], ALL, false, None),
            (&[Read(1), Read(1)], ALL, false, None),
            (&[Write(&[7]), Read(0)], ALL, false, None),
            (&[Write(&[7]), Write(&[8])], ALL, false, None),
            (&[], ALL, false, None),
            (&[Write(&[])], 0, false, None),
        ];
        for (moves, functions, pec, expected) in table {
            assert_eq!(&form(moves, *functions, *pec), expected, "{moves:?} {functions:#x} {pec}");
        }
    }

    #[test]
    fn call_brings_what_the_read_would_have() {
        let data = |bytes: &[u8]| union(bytes);
        let of = |form| Call { form, read: true, command: 0, data: [0; 34] };
        let word = 0x0201_u16.to_ne_bytes();
        let table: &[(Form, SmbusData, &[u8])] = &[
            (Form::Byte, data(&[5]), &[5]),
            (Form::ByteData, data(&[5]), &[5]),
            (Form::WordData, data(&word), &[1, 2]),
            (Form::ProcCall, data(&word), &[1, 2]),
            (Form::I2cBlockData, data(&[3, 7, 8, 9]), &[7, 8, 9]),
            (Form::BlockData, data(&[2, 7, 8, 9]), &[2, 7, 8, 0xff, 0xff]),
            (Form::BlockProcCall, data(&[3, 7, 8, 9]), &[3, 7]),
            (Form::Quick, data(&[]), &[]),
        ];
        for (form, data, expected) in table {
            let mut into = vec![0; expected.len()];
            brought(of(*form), data, &mut into);
            assert_eq!(&into, expected, "{form:?}");
        }
    }
}
