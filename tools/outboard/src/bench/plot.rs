//! The measurements as a picture: the rate over time, and the distribution of latencies, drawn as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::Tally;
use super::versus::Measured;

/// In pixels.
const SIZE: (u32, u32) = (960, 720);
/// One per back end, over and over.
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];
/// Distributions are drawn up to this many nines: 99.999 %.
const NINES: f64 = 5.0;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws all back ends into one file.
///
/// # Errors
/// The file cannot be written.
pub(super) fn draw(path: &Path, title: &str, all: &[Measured]) -> Result<()> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        picture(&area, title, all).map_err(|error| anyhow!("cannot draw: {error}"))?;
    }
    std::fs::write(path, svg).map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}

fn picture(area: &Area<'_>, title: &str, all: &[Measured]) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 18))?;
    let (upper, lower) = area.split_vertically(SIZE.1 / 2);
    rates(&upper, all)?;
    latencies(&lower, all)?;
    area.present()?;
    Ok(())
}

/// Thousands of requests a second, each round a line.
fn rates(area: &Area<'_>, all: &[Measured]) -> Result<(), Box<dyn std::error::Error>> {
    let moments = || all.iter().flat_map(|one| &one.rounds).flat_map(|round| &round.moments);
    let end = moments().map(|moment| moment.at).fold(0.001, f64::max);
    let top = moments().map(|moment| moment.rate / 1e3).fold(0.001, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart.configure_mesh().x_desc("seconds").y_desc("thousand a second").draw()?;
    for (nth, one) in all.iter().enumerate() {
        let colour = colour(nth);
        for (round, figures) in one.rounds.iter().enumerate() {
            let line = figures.moments.iter().map(|moment| (moment.at, moment.rate / 1e3));
            let drawn = chart.draw_series(LineSeries::new(line, colour))?;
            if round == 0 {
                drawn
                    .label(one.name.clone())
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    Ok(())
}

/// Microseconds within which so many of the requests were done, of all rounds together.
fn latencies(area: &Area<'_>, all: &[Measured]) -> Result<(), Box<dyn std::error::Error>> {
    let lines: Vec<Vec<(f64, f64)>> = all.iter().map(distribution).collect();
    let values = || lines.iter().flatten().map(|&(_, latency)| latency);
    let low = values().fold(f64::INFINITY, f64::min).clamp(0.001, 1e6) * 0.9;
    let high = values().fold(0.0, f64::max).max(low * 2.0) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..NINES, (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percent of the requests")
        .x_labels(6)
        .x_label_formatter(&|nines| percent(*nines))
        .y_desc("latency, us")
        .draw()?;
    for (nth, line) in lines.into_iter().enumerate() {
        chart.draw_series(LineSeries::new(line, colour(nth)))?;
    }
    Ok(())
}

/// Latencies in microseconds by nines.
fn distribution(one: &Measured) -> Vec<(f64, f64)> {
    let mut all = Tally::new();
    one.rounds.iter().flat_map(|round| &round.ways).for_each(|way| all.add(way));
    if all.latency.is_empty() {
        return Vec::new();
    }
    let at = |step: u32| {
        let nines = f64::from(step) / 50.0;
        let latency = all.latency.value_at_quantile(1.0 - 10_f64.powf(-nines));
        (nines, (latency as f64 / 1e3).max(0.001))
    };
    (0..=250).map(at).collect()
}

/// `2` nines are 99 percent.
fn percent(nines: f64) -> String {
    let percent = 100.0 - 100.0 * 10_f64.powf(-nines);
    let text = format!("{percent:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn colour(nth: usize) -> RGBColor {
    COLOURS.get(nth % COLOURS.len()).copied().unwrap_or(BLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_of_nines_is_what_people_write() {
        for (nines, text) in [(0.0, "0"), (1.0, "90"), (2.0, "99"), (3.0, "99.9"), (5.0, "99.999")] {
            assert_eq!(percent(nines), text);
        }
    }
}
