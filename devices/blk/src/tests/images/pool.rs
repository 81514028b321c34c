//! The threads that wait for disks that block.

use std::io;
use std::sync::{Arc, Mutex};

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT};

use super::*;
use crate::host::store::{Blocking, Pool};
use crate::host::{Medium, Shape};

/// A disk that remembers where it was read, and panics when it is written.
struct Odd {
    shape: Shape,
    log: Arc<Mutex<Vec<u64>>>,
}

impl Blocking for Odd {
    fn shape(&self) -> &Shape {
        &self.shape
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.shape.bytes)
    }
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        self.log.lock().unwrap().push(offset);
        data.fill(7);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        panic!("as a library may")
    }
    fn zero(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_size(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn odd(threads: usize) -> (Bench<BlkHandler>, Arc<Mutex<Vec<u64>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let shape =
        Shape { bytes: SIZE as u64, logical_block: 512, physical_block: 512, optimal_io: 0, discard: None };
    let pool = Pool::start(Odd { shape, log: Arc::clone(&log) }, threads, "odd").unwrap();
    let options = BlkOptions { ram: Some(SIZE as u64), ..BlkOptions::default() };
    let mut handler = Blk::open(&options).unwrap().handler(Group(0), AGREED).unwrap();
    handler.medium = Medium::Store { store: Arc::new(pool), files: Vec::new() };
    (Bench::with(handler, &Setup::new(Format::Split)), log)
}

#[test]
fn pool_of_one_thread_takes_jobs_in_their_order() {
    let (mut bench, log) = odd(1);
    for sector in 0..32 {
        bench.send(QueueId(0), &[&header(T_IN, sector)], &[512, 1]);
    }
    bench.run();
    assert_eq!(*log.lock().unwrap(), (0..32).map(|sector| sector * 512).collect::<Vec<u64>>());
    for _ in 0..32 {
        assert_eq!(bench.receive(QueueId(0)).unwrap().outputs, [vec![7; 512], vec![S_OK]]);
    }
}

#[test]
fn pool_whose_disk_panics_fails_that_request_and_goes_on() {
    let (mut bench, _) = odd(1);
    for _ in 0..3 {
        assert_eq!(bench.request(&[&header(T_OUT, 0), &[1; 512]], &[1]).0, [[S_IOERR]]);
        assert_eq!(bench.request(&[&header(T_IN, 0)], &[512, 1]).0, [vec![7; 512], vec![S_OK]]);
        assert_eq!(bench.request(&[&header(T_FLUSH, 0)], &[1]).0, [[S_OK]]);
    }
}

#[test]
fn pool_that_is_dropped_does_what_it_was_asked_for_first() {
    let (mut bench, log) = odd(2);
    for sector in 0..64 {
        bench.send(QueueId(0), &[&header(T_IN, sector)], &[512, 1]);
    }
    bench.begin();
    drop(bench);
    assert_eq!(log.lock().unwrap().len(), 64);
}
