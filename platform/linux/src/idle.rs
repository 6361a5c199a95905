//! The time until the next line: experts are read ahead, and once nothing has come for a while, what
//! was found out is kept.

use std::time::Duration;

/// After so long without a line, what was found out is kept, in case the power goes.
pub const IDLE: Duration = Duration::from_secs(30);

/// Where lines come from, and the time that passes until then.
pub trait Lines {
    /// A line.
    type Line;
    /// Why there will be no more.
    type Error;
    /// The line, if it is here.
    fn poll(&mut self) -> Result<Option<Self::Line>, Self::Error>;
    /// Waits for the line, at most `time`.
    fn wait(&mut self, time: Option<Duration>) -> Result<Option<Self::Line>, Self::Error>;
}

/// What there is to do meanwhile.
pub trait Chores {
    /// Reads on towards slots that are all full, one part at most. `false` when they are.
    fn warm(&mut self) -> bool;
    /// Keeps what was found out.
    fn keep(&mut self);
}

/// The next line. At most one read is waited for after it has come.
pub fn next_line<L: Lines>(lines: &mut L, chores: &mut impl Chores) -> Result<L::Line, L::Error> {
    loop {
        if let Some(line) = lines.poll()? {
            return Ok(line);
        }
        if !chores.warm() {
            break;
        }
    }
    if let Some(line) = lines.wait(Some(IDLE))? {
        return Ok(line);
    }
    chores.keep();
    loop {
        if let Some(line) = lines.wait(None)? {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody who types a line after some time, which passes only while somebody waits.
    struct Typist {
        left: Duration,
    }

    /// Looking takes a moment too.
    const LOOK: Duration = Duration::from_secs(1);

    impl Lines for Typist {
        type Line = &'static str;
        type Error = ();

        fn poll(&mut self) -> Result<Option<Self::Line>, ()> {
            self.wait(Some(LOOK))
        }

        fn wait(&mut self, time: Option<Duration>) -> Result<Option<Self::Line>, ()> {
            let passed = time.unwrap_or(self.left).min(self.left);
            let came = time.is_none_or(|time| self.left < time);
            self.left -= passed;
            Ok(came.then_some("a question"))
        }
    }

    #[derive(Default)]
    struct Log {
        parts: u32,
        warmed: u32,
        kept: u32,
    }

    impl Chores for Log {
        fn warm(&mut self) -> bool {
            self.warmed += 1;
            self.warmed <= self.parts
        }

        fn keep(&mut self) {
            self.kept += 1;
        }
    }

    fn after(seconds: u64, parts: u32) -> Log {
        let mut log = Log { parts, ..Log::default() };
        let mut typist = Typist { left: Duration::from_secs(seconds) };
        assert_eq!(next_line(&mut typist, &mut log), Ok("a question"));
        log
    }

    #[test]
    fn reading_ahead_ends_with_the_line() {
        let log = after(5, 100);
        assert_eq!((log.warmed, log.kept), (5, 0));
    }

    #[test]
    fn what_was_found_out_is_kept_once_after_thirty_idle_seconds() {
        assert_eq!(after(30, 0).kept, 0);
        assert_eq!(after(31, 0).kept, 1);
        assert_eq!(after(100_000, 0).kept, 1);
        let log = after(50, 10);
        assert_eq!((log.warmed, log.kept), (11, 1));
        assert_eq!(after(40, 10).kept, 0, "time with something to do is not idle");
    }

    #[test]
    fn the_end_of_all_lines_is_passed_on() {
        struct Gone;
        impl Lines for Gone {
            type Line = ();
            type Error = &'static str;
            fn poll(&mut self) -> Result<Option<()>, &'static str> {
                Err("gone")
            }
            fn wait(&mut self, _: Option<Duration>) -> Result<Option<()>, &'static str> {
                Err("gone")
            }
        }
        assert_eq!(next_line(&mut Gone, &mut Log::default()), Err("gone"));
    }
}
