//! Several pairs of queues, of a front end that switches them itself.

use super::*;

/// A device with some pairs, the handlers of the first two of them, with a ring of either format.
fn two_pairs(args: &[&str], features: u64, test: impl Fn(&mut Net, [&mut Bench<NetHandler>; 2])) {
    for format in FORMATS {
        let mut device = VhostUserNet::open(parse(&[args, &["--pairs=3"]].concat())).unwrap();
        let [mut first, mut second] = [0, 1].map(|pair| {
            let handler = device.handler(Group(pair), Features(features | VIRTIO_F_VERSION_1)).unwrap();
            Bench::with(handler, &Setup { queues: 2 * pair + 2, memory: 8 << 20, ..Setup::new(format) })
        });
        test(&mut device, [&mut first, &mut second]);
    }
}

#[test]
fn pairs_are_offered_and_each_has_its_queues_and_its_thread() {
    let device = VhostUserNet::open(parse(&["--backend=null", "--pairs=3"])).unwrap();
    assert!(device.profile().features.has(F_MQ));
    assert_eq!(device.config()[8..10], 3_u16.to_le_bytes());
    let queues: Vec<_> = device.profile().queues.iter().map(|spec| (spec.name, spec.group.0)).collect();
    let (rx, tx) = ("receiveq", "transmitq");
    assert_eq!(queues, [(rx, 0), (tx, 0), (rx, 1), (tx, 1), (rx, 2), (tx, 2), ("controlq", 3)]);
    let device = VhostUserNet::open(parse(&["--backend=null"])).unwrap();
    assert!(!device.profile().features.has(F_MQ));
}

#[test]
fn pairs_have_their_own_packets_and_counters() {
    let [rx, tx] = [QueueId(2), QueueId(3)];
    two_pairs(&["--backend=loop"], MERGING | F_MQ, |device, [first, second]| {
        post(first, 2, 2048);
        second.send(rx, &[], &[2048]);
        second.send(tx, &[Header::default().as_bytes(), &pattern(100)], &[]);
        second.run();
        assert_eq!(second.receive(tx).unwrap().len, 0);
        assert_eq!(second.receive(rx).unwrap().len as usize, HEADER_LEN + 100);
        send(first, &Header::default(), &pattern(60));
        assert_eq!(receive(first).unwrap().1, pattern(60));
        let status = device.status();
        assert_eq!(number(&status, "/rx/packets"), 2);
        assert_eq!([0, 1].map(|pair| number(&status, &format!("/pairs/{pair}/rx/bytes"))), [60, 100]);
        assert_eq!([0, 1].map(|pair| number(&status, &format!("/pairs/{pair}/tx/packets"))), [1, 1]);
    });
}

#[test]
fn pair_that_is_disabled_receives_nothing_until_it_is_enabled() {
    let rx = QueueId(2);
    two_pairs(&["--backend=null", "--generate=60"], MERGING | F_MQ, |_, [first, second]| {
        second.enable(rx, false);
        second.send(rx, &[], &[2048]);
        second.run();
        assert_eq!(second.receive(rx), None);
        post(first, 1, 2048);
        assert_eq!(receive(first).unwrap().1.len(), 60);
        second.enable(rx, true);
        second.run();
        assert_eq!(second.receive(rx).unwrap().len as usize, HEADER_LEN + 60);
    });
}
