//! Memory tables that change under a running ring.

use outboard_guest_memory::MemoryMap;

use super::{Rig, Setup, both, serve};
use crate::{Chain, Format, RingError};

both! { chains_in_flight_keep_their_memory_through_an_update ring_outside_of_the_table_rests_until_it_is_back
buffer_of_a_region_that_comes_later_is_served_then chain_that_was_put_back_moves_to_the_new_table
chain_that_was_put_back_and_is_in_no_region_waits_for_it }

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

fn ring_outside_of_the_table_rests_until_it_is_back(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    (0..2).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    let error = queue.update(MemoryMap::empty()).unwrap_err();
    assert!(matches!(error, RingError::RingUnmapped { .. }), "{error}");
    assert!(queue.fault().is_none(), "front ends remove and add regions one by one");
    assert!(queue.pop().unwrap().is_none() && !queue.has_available() && queue.arm_kicks());
    // What was begun still ends.
    serve(&mut chain);
    queue.complete(chain);
    assert!(queue.publish());
    assert_eq!(rig.driver.poll_used().unwrap(), Some((0, 8)));
    queue.update(rig.mem.clone()).unwrap();
    assert!(queue.has_available());
    let mut chain = queue.pop().unwrap().unwrap();
    assert_eq!(serve(&mut chain), 1);
    queue.complete(chain);
}

fn buffer_of_a_region_that_comes_later_is_served_then(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let far = rig.buffer(rig.border(), 8);
    rig.driver.add(&[far], &[far], 1).unwrap();
    rig.driver.publish();
    let all: Vec<_> = rig.mem.regions().collect();
    let less = rig.mem.without_region(&all[1]).unwrap();
    let mut config = rig.config(rig.driver.fresh_base());
    config.mem = less;
    let mut queue = config.activate().unwrap();
    assert!(queue.pop().is_err());
    assert!(queue.pop().unwrap().is_none());
    queue.update(rig.remap()).unwrap();
    assert!(queue.fault().is_none());
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain);
}

fn chain_that_was_put_back_moves_to_the_new_table(format: Format) {
    let mut rig = Rig::new(Setup { table_entries: 4, ..Setup::new(format, 8) });
    let pieces = [rig.buffer(rig.border() - 5, 8), rig.buffer(rig.border() + 64, 8)];
    rig.driver.add(&pieces[..1], &pieces[1..], 7).unwrap();
    rig.driver.publish();
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    let place = |chain: &Chain| [chain.readable(), chain.writable()].concat()[0].iov_base as usize;
    let (before, lens) = (place(&chain), (chain.readable_len(), chain.writable_len()));
    queue.put_back(chain);
    let again = rig.remap();
    queue.update(again.clone()).unwrap();
    rig.mem = again;
    let mut chain = queue.pop().unwrap().unwrap();
    assert_ne!(place(&chain), before, "another mapping");
    assert_eq!((chain.readable_len(), chain.writable_len()), lens);
    serve(&mut chain);
    queue.complete(chain);
    queue.publish();
    assert_eq!(rig.driver.poll_used().unwrap(), Some((7, 8)));
}

fn chain_that_was_put_back_and_is_in_no_region_waits_for_it(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let far = rig.buffer(rig.border(), 8);
    rig.driver.add(&[far], &[far], 1).unwrap();
    rig.driver.publish();
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    queue.put_back(chain);
    let all: Vec<_> = rig.mem.regions().collect();
    let error = queue.update(rig.mem.without_region(&all[1]).unwrap()).unwrap_err();
    assert!(matches!(error, RingError::ReturnedUnmapped { .. }), "{error}");
    assert!(queue.pop().unwrap().is_none() && !queue.has_available());
    queue.update(rig.remap()).unwrap();
    let mut chain = queue.pop().unwrap().unwrap();
    serve(&mut chain);
    queue.complete(chain);
}
