//! What `status` tells of a FreeSWITCH (mod_commands).

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Whether it takes calls.
    pub(crate) is_ready: bool,
    /// Legs that it has.
    pub(crate) sessions: u64,
    /// Legs that it may have; `None`: it does not say.
    pub(crate) most: Option<u64>,
}

impl Status {
    /// What such a text says:
    ///
    /// ```text
    /// FreeSWITCH (Version 1.10.12 -release 64bit) is ready
    /// 18 session(s) since startup
    /// 2 session(s) - peak 4, last 5min 2
    /// 0 session(s) per Sec out of max 200, peak 3, last 5min 1
    /// 2000 session(s) max
    /// ```
    ///
    /// `None`: it is no status.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let lines = || text.lines().map(str::trim);
        let number = |marks: fn(&str) -> bool| {
            let mut counts = lines().filter_map(|line| line.split_once(" session(s) "));
            counts.find(|(_, what)| marks(what)).and_then(|(count, _)| count.parse().ok())
        };
        Some(Self {
            is_ready: lines().find(|line| line.starts_with("FreeSWITCH"))?.ends_with(" is ready"),
            sessions: number(|what| what.starts_with('-'))?,
            most: number(|what| what == "max"),
        })
    }

    /// Whether it has as many legs as it may have.
    pub(crate) fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.sessions >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "UP 0 years, 0 days, 2 hours, 9 minutes, 54 seconds, 455 milliseconds, 408 microseconds\n\
        FreeSWITCH (Version 1.10.12 -release 64bit) is ready\n11773 session(s) since startup\n\
        500 session(s) - peak 5159, last 5min 4759 \n72 session(s) per Sec out of max 1000, peak 107, last 5min 97 \n\
        2000 session(s) max\nmin idle cpu 0.00/3.07\nCurrent Stack Size/Max 240K/8192K\n";

    #[test]
    fn a_status_is_read() {
        let status = Status::parse(READY).expect("a status");
        assert_eq!(status, Status { is_ready: true, sessions: 500, most: Some(2000) });
        assert!(!status.is_full() && Status { sessions: 2000, ..status }.is_full());
        let paused = Status::parse(&READY.replace("is ready", "is not ready")).expect("a status");
        assert!(!paused.is_ready);
    }

    #[test]
    fn what_is_no_status_is_none() {
        for text in ["", "-ERR no such command", "FreeSWITCH is ready", "x session(s) - peak 1", "1 session(s) - peak"]
        {
            assert_eq!(Status::parse(text), None, "{text}");
        }
        let silent = Status::parse("FreeSWITCH (Version 1) is ready\n3 session(s) - peak 3\n").expect("a status");
        assert_eq!((silent.most, silent.is_full()), (None, false));
    }
}
