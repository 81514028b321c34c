//! Random requests, cut at random, against a model of the disk.

use proptest::prelude::*;

use outboard_device::defs::blk::{S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES};

use super::*;

const SECTORS: u64 = (SIZE / 512) as u64;

#[derive(Clone, Debug)]
enum Step {
    Read { sector: u64, sectors: usize },
    Write { sector: u64, sectors: usize, seed: u8 },
    Zero { sector: u64, sectors: u32, unmap: bool },
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let (sector, sectors) = (0..SECTORS + 3, 0_usize..24);
    prop_oneof![
        (sector.clone(), sectors.clone()).prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        (sector.clone(), sectors.clone(), 1_u8..).prop_map(|(sector, sectors, seed)| Step::Write {
            sector,
            sectors,
            seed
        }),
        (sector, 0..40_u32, any::<bool>()).prop_map(|(sector, sectors, unmap)| Step::Zero {
            sector,
            sectors,
            unmap
        }),
        Just(Step::Flush),
    ]
}

/// Lengths that add up to `total`: the places of the cuts are taken modulo it.
fn cut(total: usize, cuts: &[usize]) -> Vec<usize> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % total.max(1)).filter(|&cut| cut > 0).collect();
    places.extend([0, total]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Sends a request in pieces; returns the data that came, and the status.
fn send(disk: &mut Disk, input: &[u8], room: usize, cuts: &[usize]) -> (Vec<u8>, u8) {
    let mut rest = input;
    let mut pieces = Vec::new();
    for len in cut(input.len(), cuts) {
        let (piece, later) = rest.split_at(len);
        pieces.push(piece);
        rest = later;
    }
    let (outputs, len) = disk.bench.request(&pieces, &cut(room + 1, cuts));
    let mut data = outputs.concat();
    let status = data.pop().unwrap();
    assert_eq!(len as usize, if status == S_OK { room + 1 } else { 1 });
    (data, status)
}

fn run(disk: &mut Disk, model: &mut [u8], step: &Step, cuts: &[usize]) {
    let place = |sector: u64, sectors: usize| {
        let start = sector as usize * 512;
        (sector + sectors as u64 <= SECTORS).then(|| start..start + sectors * 512)
    };
    let expected = |within: bool| if within { S_OK } else { S_IOERR };
    match *step {
        Step::Read { sector, sectors } => {
            let place = place(sector, sectors);
            let (data, status) = send(disk, &header(T_IN, sector), sectors * 512, cuts);
            assert_eq!(status, expected(place.is_some()));
            if let Some(place) = place {
                assert!(data == model[place]);
            }
        }
        Step::Write { sector, sectors, seed } => {
            let data: Vec<u8> =
                (0..sectors * 512).map(|at| seed.wrapping_mul((at % 255) as u8 | 1)).collect();
            let (_, status) = send(disk, &[header(T_OUT, sector), data.clone()].concat(), 0, cuts);
            let place = place(sector, sectors);
            assert_eq!(status, expected(place.is_some()));
            if let Some(place) = place {
                model[place].copy_from_slice(&data);
            }
        }
        Step::Zero { sector, sectors, unmap } => {
            let range = ranges(&[(sector, sectors, unmap.into())]);
            let (_, status) = send(disk, &[header(T_WRITE_ZEROES, 0), range].concat(), 0, cuts);
            let place = place(sector, sectors as usize);
            assert_eq!(status, expected(place.is_some()));
            if let Some(place) = place {
                model[place].fill(0);
            }
        }
        Step::Flush => assert_eq!(send(disk, &header(T_FLUSH, 0), 0, cuts).1, S_OK),
    }
}

fn agrees(disk: &mut Disk, steps: &[(Step, Vec<usize>)]) {
    let mut model = pattern(0, SIZE);
    for (step, cuts) in steps {
        run(disk, &mut model, step, cuts);
    }
    assert!(disk.read(0, SIZE) == model);
    if disk.image.is_some() {
        let mut image = vec![0; SIZE];
        disk.image().read_exact_at(&mut image, 0).unwrap();
        assert!(image == model);
    }
}

fn steps() -> impl Strategy<Value = Vec<(Step, Vec<usize>)>> {
    prop::collection::vec((step(), prop::collection::vec(any::<usize>(), 0..6)), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn disk_agrees_with_a_model_whatever_the_requests_and_their_cuts(steps in steps()) {
        Disk::each_plain(|disk| agrees(disk, &steps));
    }
}

proptest! {
    // Each makes and opens ten images.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn image_agrees_with_a_model_whatever_the_requests_and_their_cuts(steps in steps()) {
        Disk::each_image(|disk| agrees(disk, &steps));
    }
}
