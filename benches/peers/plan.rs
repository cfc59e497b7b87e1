//! What was asked for on the command line and in the environment.

/// Which scenarios to run, and how long.
pub struct Plan {
    asked: Vec<String>,
    pub rounds: usize,
    /// For each scenario and peer in a round.
    pub seconds: u32,
}

impl Plan {
    /// `None`: this is `cargo test`, which only wants to know that the program was built.
    pub fn new() -> Option<Plan> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if args.iter().any(|arg| arg == "--test") {
            return None;
        }
        let asked = args.into_iter().filter(|arg| !arg.starts_with('-'));
        Some(Plan {
            asked: asked.collect(),
            rounds: number("ROUNDS", 5) as usize,
            seconds: number("SECONDS", 3),
        })
    }

    /// Whether a scenario is to be run: all are when none is named.
    pub fn wants(&self, scenario: &str) -> bool {
        self.asked.is_empty() || self.asked.iter().any(|asked| scenario.contains(asked))
    }

    /// The peers of each round, so that everybody comes first equally often.
    pub fn turns<'a, T>(&self, peers: &'a [T]) -> Vec<(usize, &'a T)> {
        let turn = |round: usize| {
            let (late, early) = peers.split_at(round % peers.len().max(1));
            early.iter().chain(late).map(move |peer| (round, peer))
        };
        (0..self.rounds).flat_map(turn).collect()
    }
}

/// A number from the environment.
pub fn number(name: &str, otherwise: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}
