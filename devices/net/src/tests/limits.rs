//! How long packets may be, and how many of them pass.

use super::*;

#[test]
fn mtu_limits_what_is_received_by_a_driver_that_knows_of_it() {
    let tagged = |tags: usize, len: usize| {
        let mut packet = pattern(len);
        (0..tags).for_each(|tag| packet[12 + 4 * tag..14 + 4 * tag].copy_from_slice(&[0x81, 0]));
        packet[12 + 4 * tags..14 + 4 * tags].copy_from_slice(&[8, 0]);
        packet
    };
    for (tags, ethernet) in [(0, 14), (1, 18), (2, 22)] {
        each(&["--backend=loop", "--mtu=1000"], MERGING | F_MTU, |device, bench| {
            post(bench, 3, 2048);
            let (fits, not) = (tagged(tags, ethernet + 1000), tagged(tags, ethernet + 1001));
            send(bench, &Header::default(), &not);
            send(bench, &Header::default(), &fits);
            assert_eq!(receive(bench).unwrap().1, fits);
            assert_eq!(receive(bench), None);
            assert_eq!(number(&device.status(), "/tx/refused/too_long"), 1);
            // A front end changes it while the device is driven.
            device.set_mtu(500).unwrap();
            bench.run();
            send(bench, &Header::default(), &fits);
            assert_eq!(receive(bench), None);
            assert_eq!(number(&device.status(), "/tx/refused/too_long"), 2);
        });
    }
    // What is made up by the host has its length.
    for (features, arrives) in [(MERGING, true), (MERGING | F_MTU, false)] {
        each(&["--backend=null", "--generate=1015", "--mtu=1000"], features, |device, bench| {
            post(bench, 1, 2048);
            assert_eq!(receive(bench).is_some(), arrives);
            assert_eq!(number(&device.status(), "/rx/dropped/too_long") > 0, !arrives);
        });
    }
}

/// A ring that is too small for any packet of this length does not keep the host waiting.
#[test]
fn packet_that_the_whole_ring_could_not_hold_is_too_long() {
    for format in FORMATS {
        let mut device = VhostUserNet::open(parse(&["--backend=null", "--generate=1000"])).unwrap();
        let handler = device.handler(Group(0), Features(MERGING | VIRTIO_F_VERSION_1)).unwrap();
        let mut bench = Bench::with(handler, &Setup { queues: 2, size: 4, ..Setup::new(format) });
        post(&mut bench, 3, 200);
        assert_eq!(number(&device.status(), "/rx/dropped/too_long"), 0, "there may be one more");
        post(&mut bench, 1, 200);
        assert_eq!(receive(&mut bench), None);
        assert!(number(&device.status(), "/rx/dropped/too_long") > 0);
        assert_eq!(number(&device.status(), "/rx/dropped/no_buffer"), 0);
        assert_eq!(bench.outstanding(RX), 4, "for shorter ones");
    }
}

#[test]
fn packets_beyond_a_limit_wait_in_the_ring_of_the_sender() {
    each(&["--backend=loop", "--tx-pps=10:2"], MERGING, |device, bench| {
        let sent = |device: &Net| number(&device.status(), "/tx/packets");
        post(bench, 8, 2048);
        for _ in 0..5 {
            bench.send(TX, &[Header::default().as_bytes(), &pattern(60)], &[]);
        }
        bench.run();
        // A burst, and one ahead.
        assert_eq!(sent(device), 3);
        bench.pass(Duration::from_millis(99));
        assert_eq!((sent(device), bench.outstanding(TX)), (3, 5), "nobody has taken the others");
        bench.pass(Duration::from_millis(1));
        assert_eq!(sent(device), 4);
        // Who waits goes by new limits soon.
        device.control("limits", &json!({ "tx-pps": "1:1" })).unwrap();
        device.control("limits", &json!({ "tx-pps": null })).unwrap();
        bench.pass(Duration::from_millis(250));
        assert_eq!(sent(device), 5);
        assert_eq!(number(&device.status(), "/tx/rate"), 2, "that had to wait");
        assert_eq!(device.status()["limits"]["tx-pps"], Value::Null);
        assert!(device.control("limits", &json!({ "tx": 1 })).is_err());
    });
}

#[test]
fn packets_beyond_what_a_guest_may_receive_are_dropped_or_wait() {
    // 100 bytes.
    each(&["--backend=loop", "--rx-rate=800:800"], MERGING, |device, bench| {
        post(bench, 4, 2048);
        for _ in 0..3 {
            send(bench, &Header::default(), &pattern(100));
        }
        assert_eq!([0; 3].map(|_| receive(bench).is_some()), [true, true, false]);
        assert_eq!(number(&device.status(), "/rx/dropped/rate"), 1);
        bench.pass(Duration::from_secs(1));
        send(bench, &Header::default(), &pattern(100));
        assert!(receive(bench).is_some());
    });
    each(&["--backend=null", "--generate=100", "--rx-pps=10:1"], MERGING, |device, bench| {
        post(bench, 10, 2048);
        for expected in [2, 3, 4] {
            assert_eq!(number(&device.status(), "/rx/packets"), expected);
            bench.pass(Duration::from_millis(100));
        }
        assert_eq!(number(&device.status(), "/rx/dropped/rate"), 0);
    });
}

/// Another than that of the options, which the front end has set.
#[test]
fn network_of_the_guests_own_tells_the_mtu_that_holds() {
    each(&["--backend=user", "--mtu=9000"], MERGING, |device, bench| {
        for wrong in [1279, 9001] {
            assert!(device.set_mtu(wrong).is_err(), "{wrong}");
        }
        for mtu in [9000, 1400] {
            device.set_mtu(mtu).unwrap();
            bench.run();
            // A client asks for an address: option 26 of the answer has the MTU (RFC 2132, 5.1).
            let mut question = [&[1, 1, 6][..], &[0; 233], &[99, 130, 83, 99, 53, 1, 1, 255]].concat();
            question[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
            let (_, mut frame) = datagram(&question);
            frame[..12].copy_from_slice(&[&[0xff; 6][..], &[2, 0, 0, 0, 0, 9]].concat());
            // From nobody to all, and from a client to servers, without a checksum.
            frame[24..34].copy_from_slice(&[0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
            frame[34..38].copy_from_slice(&[0, 68, 0, 67]);
            frame[40..42].fill(0);
            let checksum = !sum(&frame[14..34]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            post(bench, 1, 2048);
            send(bench, &Header::default(), &frame);
            let (_, answer) = receive(bench).unwrap();
            let [high, low] = (mtu as u16).to_be_bytes();
            assert!(answer.windows(4).any(|option| option == [26, 2, high, low]), "{mtu}");
        }
    });
}

/// Of a device, not of its driver.
#[test]
fn limits_outlast_a_reset() {
    let mut device = VhostUserNet::open(parse(&["--backend=loop", "--rx-rate=1M"])).unwrap();
    device.control("limits", &json!({ "rx-rate": "2M", "tx-pps": "3:4" })).unwrap();
    device.reset();
    device.agreed(Features(MERGING));
    let shown = json!({ "rx-rate": "2000000:200000", "rx-pps": null, "tx-rate": null, "tx-pps": "3:4" });
    assert_eq!(device.status()["limits"], shown);
}

#[test]
fn mtu_of_a_front_end_is_kept_to_until_it_is_gone() {
    let mut device = VhostUserNet::open(parse(&["--backend=loop", "--mtu=9000"])).unwrap();
    assert!(device.profile().network);
    let mtu = |device: &Net| u16::from_le_bytes([device.config()[10], device.config()[11]]);
    for wrong in [0, 67, 65536, u64::MAX] {
        assert!(device.set_mtu(wrong).is_err(), "{wrong}");
    }
    assert_eq!(mtu(&device), 9000);
    device.set_mtu(1280).unwrap();
    assert_eq!((mtu(&device), number(&device.status(), "/mtu")), (1280, 1280));
    device.reset();
    assert_eq!(mtu(&device), 1280);
    device.disconnected();
    assert_eq!(mtu(&device), 9000);
    device.announce([2, 0, 0, 0, 0, 1]).unwrap();
}
