//! More mappings than the guard has room for. Alone in its process: it fills the process's table.

use outboard_guest_memory::{SharedRegion, memfd, sigbus};

#[test]
fn mappings_beyond_the_guards_table_work_unguarded() {
    let fd = memfd("many", 4096).unwrap();
    let map = || SharedRegion::map(fd.try_clone().unwrap(), 4096, 0).unwrap();
    let mut regions: Vec<_> = (0..4096).map(|_| map()).collect();
    assert_eq!(sigbus::unguarded(), 0);
    let more = map();
    assert_eq!((more.len(), sigbus::unguarded()), (4096, 1));
    regions.pop();
    regions.push(map());
    assert_eq!(sigbus::unguarded(), 1, "a freed place is taken again");
}
