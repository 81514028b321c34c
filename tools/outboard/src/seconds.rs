//! Times as the user writes them.

use std::time::Duration;

/// A time of the command line: a number of seconds, at most a day.
///
/// # Errors
/// It is none.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    if time > Duration::from_secs(86400) { Err("at most a day".to_owned()) } else { Ok(time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_that_are_no_time_to_wait_are_refused() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["", "x", "-1", "nan", "inf", "1e19", "86401"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
