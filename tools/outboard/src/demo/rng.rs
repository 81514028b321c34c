//! The entropy device: that it gives what entropy looks like, and how much.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outboard_frontend::{Format, Frontend, Options, Wishes, drivers::Rng};

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

/// What is looked at, in bytes.
const SAMPLE: usize = 1 << 20;
/// One request of the driver, in bytes.
const REQUEST: usize = 4096;
/// Pearson's statistic of bytes that are uniform has 255 degrees of freedom: mean 255, standard deviation 22.6. Six
/// deviations off happens once in a billion runs.
const PLAUSIBLE: std::ops::Range<f64> = 120.0..391.0;

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn::<&str>(Device::Rng, socket, &[])?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let mut rng = Rng::open(frontend, &Wishes { format, ..Wishes::default() })?;

    let mut samples = [vec![0; SAMPLE], vec![0; SAMPLE]];
    for sample in &mut samples {
        rng.fill(sample)?;
        let statistic = chi_square(sample);
        ensure!(
            PLAUSIBLE.contains(&statistic),
            "the bytes are not uniform: chi-square {statistic:.0} of 255"
        );
    }
    let [first, second] = &samples;
    ensure!(first != second, "the same bytes twice");
    report.verified("2 MiB read: uniform (chi-square), and not the same twice");

    let start = Instant::now();
    let mut requests = 0;
    let mut bytes = vec![0; 16 * REQUEST];
    while start.elapsed() < seconds {
        rng.fill(&mut bytes)?;
        requests += 16;
    }
    report.measured("read 4 KiB, depth 16, interrupts", requests, REQUEST, start.elapsed().as_secs_f64());
    drop(rng);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// Pearson's statistic of the bytes against the uniform distribution.
fn chi_square(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for &byte in bytes {
        if let Some(count) = counts.get_mut(usize::from(byte)) {
            *count += 1;
        }
    }
    let expected = bytes.len() as f64 / 256.0;
    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chi_square_of_a_constant_and_of_a_counter_are_implausible() {
        assert!(!PLAUSIBLE.contains(&chi_square(&[7; SAMPLE])));
        let counter: Vec<u8> = (0..SAMPLE).map(|at| at as u8).collect();
        assert!(!PLAUSIBLE.contains(&chi_square(&counter)));
    }
}
