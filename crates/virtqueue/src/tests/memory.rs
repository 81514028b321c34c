//! Memory tables that change under a running ring.

use outboard_guest_memory::MemoryMap;

use super::{Rig, Setup, both, serve};
use crate::{Chain, Format, RingError};

both! { chains_in_flight_keep_their_memory_through_an_update table_without_the_ring_is_a_fault
same_addresses_are_no_change addresses_of_a_moved_ring_are_taken }

fn chains_in_flight_keep_their_memory_through_an_update(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    (0..4).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut early: Vec<Chain> = (0..2).map(|_| queue.pop().unwrap().unwrap()).collect();
    let addresses: Vec<_> = early.iter().map(|chain| chain.readable()[0].iov_base as usize).collect();
    let again = rig.remap();
    queue.update(again.clone()).unwrap();
    rig.mem = again;
    let mut late: Vec<Chain> = (0..2).map(|_| queue.pop().unwrap().unwrap()).collect();
    assert_ne!(late[0].readable()[0].iov_base as usize & !0xfff, addresses[0] & !0xfff, "another mapping");
    for (token, chain) in early.drain(..).chain(late.drain(..)).enumerate() {
        let mut chain = chain;
        assert_eq!(serve(&mut chain), token as u64);
        queue.complete(chain);
    }
    queue.publish();
    for token in 0..4 {
        assert_eq!(rig.driver.poll_used().unwrap(), Some((token, 8)));
    }
}

fn table_without_the_ring_is_a_fault(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    (0..2).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    let error = queue.update(MemoryMap::empty()).unwrap_err();
    assert!(matches!(error, RingError::RingUnmapped { .. }), "{error}");
    assert_eq!(queue.fault(), Some(&error));
    assert!(queue.pop().unwrap().is_none());
    // What was begun still ends.
    serve(&mut chain);
    queue.complete(chain);
    assert!(queue.publish());
    assert_eq!(rig.driver.poll_used().unwrap(), Some((0, 8)));
}

fn same_addresses_are_no_change(format: Format) {
    let rig = Rig::new(Setup::new(format, 8));
    let mut queue = rig.start();
    let config = rig.config(rig.driver.fresh_base());
    queue.set_addresses(config.desc, config.avail, config.used).unwrap();
    assert!(queue.set_addresses(config.desc, config.avail, 0).is_err());
    assert!(queue.fault().is_none(), "the old ones remain");
    assert!(queue.pop().unwrap().is_none());
}

fn addresses_of_a_moved_ring_are_taken(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    rig.add_simple(9);
    rig.driver.publish();
    let mut config = rig.config(rig.driver.fresh_base());
    let right = (config.desc, config.avail, config.used);
    // Zeroes elsewhere: an empty ring.
    let empty = config.desc + 0x1_0000;
    (config.desc, config.avail, config.used) = (empty, empty + 0x1000, empty + 0x2000);
    let mut queue = config.activate().unwrap();
    assert!(queue.pop().unwrap().is_none());
    queue.set_addresses(right.0, right.1, right.2).unwrap();
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain);
}
