//! What a chain does with its bytes, against the same operations on plain vectors.

use std::io;
use std::os::fd::OwnedFd;

use outboard_guest_memory::memfd;
use proptest::prelude::*;

use super::{Rig, Setup, both, serve};
use crate::driver::Buffer;
use crate::{Chain, Format, Short, lost_chains};

both! { status_is_the_last_writable_byte fill_from_a_pipe_is_short_and_then_would_block
fill_and_drain_pass_a_thousand_pieces file_offsets_are_honoured put_back_gives_the_whole_chain_again
dropped_chain_panics_and_is_counted short_chains_are_not_consumed fill_with_stops_at_the_source
ring_whose_descriptors_are_all_given_out_is_exhausted ring_of_indirect_chains_is_exhausted_when_all_are_given_out }

#[derive(Debug, Clone)]
enum Step {
    Read(usize),
    Skip(usize),
    TruncateReadable(usize),
    Write(usize),
    Zeroes(usize),
    Advance(usize),
    TruncateWritable(usize),
    Status,
    SetStatus,
    Rewind,
    Peek(usize, usize),
    Put(usize, usize),
    Rewrite(usize, usize),
    PutZeroes(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..40_usize;
    prop_oneof![
        n.clone().prop_map(Step::Read),
        n.clone().prop_map(Step::Skip),
        (0..120_usize).prop_map(Step::TruncateReadable),
        n.clone().prop_map(Step::Write),
        n.clone().prop_map(Step::Zeroes),
        n.clone().prop_map(Step::Advance),
        (n.clone(), n.clone()).prop_map(|(at, len)| Step::Peek(at, len)),
        (n.clone(), n.clone()).prop_map(|(at, len)| Step::Put(at, len)),
        (n.clone(), 0..8_usize).prop_map(|(at, len)| Step::Rewrite(at, len)),
        (n.clone(), n).prop_map(|(at, len)| Step::PutZeroes(at, len)),
        (0..120_usize).prop_map(Step::TruncateWritable),
        Just(Step::Status),
        Just(Step::SetStatus),
        Just(Step::Rewind),
    ]
}

/// Lays out buffers of these lengths, one behind the other with gaps, across the border of regions.
fn lay_out(rig: &Rig, lens: &[u32]) -> Vec<Buffer> {
    let mut at = rig.border() - 40;
    let place = |&len: &u32| {
        let buffer = rig.buffer(at, len);
        at += u64::from(len) + 3;
        buffer
    };
    lens.iter().map(place).collect()
}

fn iovec_bytes(pieces: &[libc::iovec]) -> usize {
    assert!(pieces.iter().all(|piece| piece.iov_len > 0));
    pieces.iter().map(|piece| piece.iov_len).sum()
}

proptest! {
    #[test]
    fn chain_behaves_like_two_vectors(
        readable in proptest::collection::vec(0..30_u32, 1..6),
        writable in proptest::collection::vec(0..30_u32, 1..6),
        steps in proptest::collection::vec(step(), 1..30),
    ) {
        let mut rig = Rig::new(Setup::new(Format::Split, 16));
        let all = lay_out(&rig, &[readable.clone(), writable].concat());
        let (readable, writable) = all.split_at(readable.len());
        let mut counter = 0_u8;
        let mut content = Vec::new();
        for &buffer in readable {
            let bytes: Vec<u8> = (0..buffer.len).map(|_| { counter = counter.wrapping_add(1); counter }).collect();
            rig.write(buffer, &bytes);
            content.extend(bytes);
        }
        for &buffer in writable {
            rig.write(buffer, &vec![0xee; buffer.len as usize]);
        }
        let room: usize = writable.iter().map(|buffer| buffer.len as usize).sum();
        rig.driver.add(readable, writable, 1).unwrap();
        rig.driver.publish();
        let mut queue = rig.start();
        let mut chain = queue.pop().unwrap().unwrap();

        let mut left = content.clone();
        let mut image = vec![0xee_u8; room];
        // Writable bytes left, and the status byte.
        let (mut at, mut end, mut status_at, mut status) = (0, room, None, None);
        let mut written = 0_usize;
        for step in steps {
            match step {
                Step::Read(n) => {
                    let mut bytes = vec![0; n];
                    let result = chain.read_exact(&mut bytes);
                    if n > left.len() {
                        prop_assert_eq!(result, Err(Short { wanted: n, left: left.len() }));
                    } else {
                        prop_assert_eq!(bytes, left.drain(..n).collect::<Vec<_>>());
                    }
                }
                Step::Skip(n) => {
                    let n = n.min(left.len());
                    prop_assert_eq!(chain.skip_readable(n), n);
                    left.drain(..n);
                }
                Step::TruncateReadable(n) => {
                    chain.truncate_readable(n);
                    left.truncate(n);
                }
                Step::Write(n) => {
                    let fits = n <= end - at;
                    let bytes = vec![n as u8; n];
                    prop_assert_eq!(chain.write_all(&bytes).is_ok(), fits);
                    if fits {
                        image[at..at + n].fill(n as u8);
                        at += n;
                        written += n;
                    }
                }
                Step::Zeroes(n) => {
                    let n = n.min(end - at);
                    prop_assert_eq!(chain.write_zeroes(n), n);
                    image[at..at + n].fill(0);
                    at += n;
                    written += n;
                }
                Step::Advance(n) => {
                    let n = n.min(end - at);
                    chain.advance_writable(n);
                    at += n;
                    written += n;
                }
                Step::TruncateWritable(n) => {
                    chain.truncate_writable(n);
                    end = end.min(at + n);
                }
                Step::Status => {
                    let got = chain.split_status();
                    prop_assert_eq!(got.is_some(), at < end && status_at.is_none());
                    if got.is_some() {
                        end -= 1;
                        status_at = Some(end);
                        status = got;
                    }
                }
                Step::SetStatus => {
                    if let (Some(right), Some(place)) = (status.take(), status_at) {
                        chain.set_status(right, 0x55);
                        image[place] = 0x55;
                        written += 1;
                    }
                }
                Step::Peek(from, len) => {
                    let mut bytes = vec![0; len];
                    prop_assert_eq!(chain.peek(from, &mut bytes).is_ok(), from + len <= left.len());
                    if from + len <= left.len() {
                        prop_assert_eq!(&bytes, &left[from..from + len]);
                        let pieces: Vec<_> = crate::pieces(chain.readable(), from, len).collect();
                        prop_assert_eq!(iovec_bytes(&pieces), len);
                    }
                }
                Step::Put(from, len) => {
                    let fits = from + len <= end - at;
                    prop_assert_eq!(chain.put(from, &vec![len as u8; len]).is_ok(), fits);
                    if fits {
                        image[at + from..at + from + len].fill(len as u8);
                    }
                }
                Step::Rewrite(from, len) => {
                    let done = chain.rewrite(from, &vec![0x77; len]);
                    let consumed = at;
                    if from + len <= consumed {
                        prop_assert_eq!(done, Ok(()));
                        image[from..from + len].fill(0x77);
                    } else {
                        prop_assert_eq!(done, Err(Short { wanted: from + len, left: consumed }));
                    }
                }
                Step::PutZeroes(from, len) => {
                    let fits = from + len <= end - at;
                    prop_assert_eq!(chain.put_zeroes(from, len).is_ok(), fits);
                    if fits {
                        image[at + from..at + from + len].fill(0);
                    }
                }
                Step::Rewind => {
                    queue.put_back(chain);
                    chain = queue.pop().unwrap().unwrap();
                    left.clone_from(&content);
                    (at, end, status_at, status, written) = (0, room, None, None, 0);
                }
            }
            prop_assert_eq!(chain.readable_len(), left.len());
            prop_assert_eq!(chain.writable_len(), end - at);
            prop_assert_eq!(iovec_bytes(chain.readable()), left.len());
            prop_assert_eq!(iovec_bytes(chain.writable()), end - at);
            prop_assert_eq!(chain.written() as usize, written);
        }
        queue.complete(chain);
        let now: Vec<u8> = writable.iter().flat_map(|&buffer| rig.read(buffer)).collect();
        prop_assert_eq!(now, image);
    }
}

proptest! {
    #[test]
    fn copy_moves_what_there_is_and_has_room_however_both_are_cut(
        from in proptest::collection::vec(0..30_u32, 1..6),
        to in proptest::collection::vec(0..30_u32, 1..6),
        (read, written, len) in (0..40_usize, 0..40_usize, 0..120_usize),
    ) {
        let mut rig = Rig::new(Setup::new(Format::Packed, 16));
        let all = lay_out(&rig, &[from.clone(), to].concat());
        let (from, to) = all.split_at(from.len());
        let mut content = Vec::new();
        for (at, &buffer) in from.iter().enumerate() {
            let bytes: Vec<u8> = (0..buffer.len).map(|byte| (at * 31) as u8 + byte as u8).collect();
            rig.write(buffer, &bytes);
            content.extend(bytes);
        }
        to.iter().for_each(|&buffer| rig.write(buffer, &vec![0xee; buffer.len as usize]));
        rig.driver.add::<_, Buffer>(from, &[], 0).unwrap();
        rig.driver.add::<Buffer, _>(&[], to, 1).unwrap();
        rig.driver.publish();
        let mut queue = rig.start();
        let (mut source, mut sink) = (queue.pop().unwrap().unwrap(), queue.pop().unwrap().unwrap());
        let read = source.skip_readable(read);
        let written = sink.write_zeroes(written);
        let (left, room) = (source.readable_len(), sink.writable_len());
        let copied = source.copy_to(&mut sink, len);
        prop_assert_eq!(copied, len.min(left).min(room));
        prop_assert_eq!((source.readable_len(), sink.writable_len()), (left - copied, room - copied));
        prop_assert_eq!(sink.written() as usize, written + copied);
        queue.complete_together([source, sink]);
        let now: Vec<u8> = to.iter().flat_map(|&buffer| rig.read(buffer)).collect();
        prop_assert_eq!(&now[..written], &vec![0; written]);
        prop_assert_eq!(&now[written..written + copied], &content[read..read + copied]);
        prop_assert!(now[written + copied..].iter().all(|&byte| byte == 0xee));
    }
}

/// A chain with one readable and one writable buffer of these lengths.
fn one(rig: &mut Rig, readable: u32, writable: u32) -> (crate::Virtqueue, Chain) {
    let (from, to) = (rig.buffer(0, readable), rig.buffer(0x4000, writable));
    rig.driver.add(&[from], &[to], 0).unwrap();
    rig.driver.publish();
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    (queue, chain)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = io::pipe().unwrap();
    (reader.into(), writer.into())
}

fn status_is_the_last_writable_byte(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let buffers = [rig.buffer(0, 4), rig.buffer(8, 1), rig.buffer(16, 0)];
    rig.driver.add::<Buffer, _>(&[], &buffers, 0).unwrap();
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    let status = chain.split_status().unwrap();
    assert_eq!(chain.writable_len(), 4);
    assert!(chain.split_status().is_none());
    chain.write_all(b"data").unwrap();
    chain.set_status(status, 7);
    assert_eq!(chain.written(), 5);
    queue.complete(chain);
    queue.publish();
    assert_eq!(rig.driver.poll_used().unwrap(), Some((0, 5)));
    assert_eq!(rig.read(rig.buffer(8, 1)), [7]);
}

fn fill_from_a_pipe_is_short_and_then_would_block(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (mut queue, mut chain) = one(&mut rig, 4, 100);
    let (reader, writer) = pipe();
    // SAFETY: fcntl on a descriptor of our own.
    #[allow(unsafe_code)]
    unsafe {
        use std::os::fd::AsRawFd;
        assert_eq!(libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK), 0);
    }
    rig.write(rig.buffer(0, 4), b"ping");
    assert_eq!(chain.drain_to(&writer).unwrap(), 4);
    assert_eq!(chain.drain_to(&writer).unwrap(), 0);
    assert_eq!(chain.fill_from(&reader).unwrap(), 4);
    assert_eq!(chain.fill_from(&reader).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(writer);
    assert_eq!(chain.fill_from(&reader).unwrap(), 0, "end of file");
    assert_eq!((chain.written(), chain.writable_len()), (4, 96));
    queue.complete(chain);
    assert_eq!(rig.read(rig.buffer(0x4000, 4)), b"ping");
}

fn fill_and_drain_pass_a_thousand_pieces(format: Format) {
    let mut rig = Rig::new(Setup { table_entries: 4000, ..Setup::new(format, 2) });
    let pieces = |rig: &Rig, start: u64| -> Vec<Buffer> {
        (0..2000).map(|index| rig.buffer(start + index * 16, 5)).collect()
    };
    let (from, to) = (pieces(&rig, 0), pieces(&rig, 0x1_0000));
    for (index, &buffer) in from.iter().enumerate() {
        rig.write(buffer, &(index as u32).to_le_bytes());
    }
    rig.driver.add(&from, &to, 0).unwrap();
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    let file = memfd("file", 20000).unwrap();
    assert_eq!(chain.drain_to_at(&file, 1).unwrap(), 10000);
    assert_eq!(chain.fill_from_at(&file, 1).unwrap(), 10000);
    assert_eq!(chain.written(), 10000);
    queue.complete(chain);
    for (&from, &to) in from.iter().zip(&to) {
        assert_eq!(rig.read(from), rig.read(to));
    }
}

fn file_offsets_are_honoured(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (mut queue, mut chain) = one(&mut rig, 4, 8);
    rig.write(rig.buffer(0, 4), b"disk");
    let file = memfd("file", 4096).unwrap();
    assert_eq!(chain.drain_to_at(&file, 4092).unwrap(), 4);
    assert_eq!(chain.fill_from_at(&file, 4090).unwrap(), 6, "short at the end");
    assert_eq!(chain.fill_from_at(&file, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    queue.complete(chain);
    assert_eq!(rig.read(rig.buffer(0x4000, 6)), b"\0\0disk");
}

fn put_back_gives_the_whole_chain_again(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    (0..3).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chains: Vec<Chain> = (0..3).map(|_| queue.pop().unwrap().unwrap()).collect();
    assert_eq!(queue.in_flight(), 3);
    for mut chain in chains.drain(..).rev() {
        serve(&mut chain);
        queue.put_back(chain);
    }
    assert_eq!(queue.in_flight(), 0);
    assert!(queue.has_available() && !queue.arm_kicks());
    for token in 0..3 {
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(serve(&mut chain), token, "oldest first");
        queue.complete(chain);
    }
    assert!(queue.pop().unwrap().is_none());
}

fn dropped_chain_panics_and_is_counted(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (queue, chain) = one(&mut rig, 1, 1);
    let before = lost_chains();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(chain)));
    assert!(dropped.is_err());
    assert!(lost_chains() > before);
    assert_eq!(queue.in_flight(), 1);
}

fn short_chains_are_not_consumed(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (mut queue, mut chain) = one(&mut rig, 4, 2);
    rig.write(rig.buffer(0, 4), &[1, 0, 0, 0]);
    assert_eq!(chain.read_obj::<u64>().unwrap_err(), Short { wanted: 8, left: 4 });
    assert_eq!(chain.read_obj::<u32>().unwrap(), 1);
    assert_eq!(chain.write_obj(&1_u32).unwrap_err(), Short { wanted: 4, left: 2 });
    assert_eq!(chain.write_obj(&0x1234_u16), Ok(()));
    queue.complete(chain);
    assert_eq!(rig.read(rig.buffer(0x4000, 2)), [0x34, 0x12]);
}

fn fill_with_stops_at_the_source(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let (mut queue, mut chain) = one(&mut rig, 1, 9000);
    let mut rooms = vec![4096, 100, 0];
    rooms.reverse();
    let done = chain.fill_with(|room| {
        assert!(room.len() <= 4096);
        Ok(rooms.pop().unwrap_or(0))
    });
    assert_eq!((done.unwrap(), chain.written()), (4196, 4196));
    let failed = chain.fill_with(|_| Err(io::ErrorKind::TimedOut.into()));
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(chain.fill_with(|room| Ok(room.len())).unwrap(), 9000 - 4196);
    queue.complete(chain);
}

fn ring_whose_descriptors_are_all_given_out_is_exhausted(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    // Two descriptors each.
    (0..4).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chains: Vec<_> = std::iter::from_fn(|| queue.take()).take(3).collect();
    assert!(!queue.is_exhausted());
    chains.push(queue.take().unwrap());
    assert!(queue.is_exhausted());
    queue.put_back(chains.pop().unwrap());
    assert!(!queue.is_exhausted());
    chains.push(queue.take().unwrap());
    assert!(queue.is_exhausted());
    chains.drain(..).for_each(|chain| queue.complete(chain));
    assert!(!queue.is_exhausted());
}

fn ring_of_indirect_chains_is_exhausted_when_all_are_given_out(format: Format) {
    let mut rig = Rig::new(Setup { table_entries: 4, ..Setup::new(format, 4) });
    (0..4).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let first = queue.take().unwrap();
    let others: Vec<_> = std::iter::from_fn(|| queue.take()).collect();
    assert_eq!((others.len(), queue.is_exhausted()), (3, true));
    queue.complete(first);
    assert!(!queue.is_exhausted());
    others.into_iter().for_each(|chain| queue.complete(chain));
}
