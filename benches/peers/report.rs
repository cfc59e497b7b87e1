//! Medians, their table, JSON and a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// What was measured, in the order it came.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    /// By scenario, what and peer: the value of each round.
    values: BTreeMap<(String, String, String), BTreeMap<usize, f64>>,
    left_out: Vec<LeftOut>,
}

struct LeftOut {
    peer: String,
    why: String,
    scenarios: Vec<String>,
}

/// What one peer did in one round of a scenario.
pub struct Turn<'a> {
    report: &'a mut Report,
    scenario: &'a str,
    peer: &'a str,
    round: usize,
}

impl Turn<'_> {
    pub fn add(&mut self, what: &str, value: f64) {
        let row = (self.scenario.to_string(), what.to_string());
        if !self.report.rows.contains(&row) {
            self.report.rows.push(row.clone());
        }
        let key = (row.0, row.1, self.peer.to_string());
        let rounds = self.report.values.entry(key).or_default();
        rounds.insert(self.round, value);
    }
}

/// One peer in a row.
struct Cell<'a> {
    peer: &'a str,
    rounds: &'a BTreeMap<usize, f64>,
    median: f64,
    to_haproxy: Option<f64>,
    to_direct: Option<f64>,
}

impl Report {
    pub fn turn<'a>(&'a mut self, scenario: &'a str, peer: &'a str, round: usize) -> Turn<'a> {
        Turn {
            report: self,
            scenario,
            peer,
            round,
        }
    }

    /// Notes what could not be measured. The run goes on.
    pub fn leave_out(&mut self, scenario: &str, peer: &str, why: &str) {
        let same = |known: &&mut LeftOut| known.peer == peer && known.why == why;
        match self.left_out.iter_mut().find(same) {
            Some(known) if known.scenarios.iter().any(|known| known == scenario) => {}
            Some(known) => known.scenarios.push(scenario.to_string()),
            None => {
                println!("without {peer}: {why}");
                self.left_out.push(LeftOut {
                    peer: peer.to_string(),
                    why: why.to_string(),
                    scenarios: vec![scenario.to_string()],
                });
            }
        }
    }

    /// Prints everything and writes `NAME.json` and `NAME.svg` into the target folder.
    pub fn finish(&self, name: &str) {
        self.print();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
        match self.write(&folder, name) {
            Ok(()) => println!("written: {0}/{name}.json, {0}/{name}.svg", folder.display()),
            Err(why) => println!("not written: {why}"),
        }
    }

    fn print(&self) {
        for (scenario, what) in &self.rows {
            let mut line = format!("{scenario:<16} {what:<18}");
            for cell in self.row(scenario, what) {
                let _ = write!(line, "  {} {:.2}", cell.peer, cell.median);
                match (cell.to_haproxy, cell.to_direct) {
                    (Some(haproxy), Some(direct)) => {
                        let _ = write!(line, " ({haproxy:.2}x, direct {direct:.2}x)");
                    }
                    (Some(haproxy), None) => {
                        let _ = write!(line, " ({haproxy:.2}x)");
                    }
                    (None, Some(direct)) => {
                        let _ = write!(line, " (direct {direct:.2}x)");
                    }
                    (None, None) => {}
                }
            }
            println!("{line}");
        }
        println!("(in brackets: the median of the ratios to HAProxy, and to direct, in a round)");
        for LeftOut {
            peer,
            why,
            scenarios,
        } in &self.left_out
        {
            println!("without {peer}: {why} ({})", scenarios.join(", "));
        }
    }

    fn write(&self, folder: &Path, name: &str) -> std::io::Result<()> {
        let row = |(scenario, what): &(String, String)| -> Value {
            let peer = |cell: &Cell<'_>| {
                json!({
                    "proxy": cell.peer, "median": cell.median, "to_haproxy": cell.to_haproxy,
                    "to_direct": cell.to_direct, "rounds": cell.rounds.values().collect::<Vec<_>>(),
                })
            };
            let proxies: Vec<Value> = self.row(scenario, what).iter().map(peer).collect();
            json!({"scenario": scenario, "what": what, "proxies": proxies})
        };
        let left_out = self
            .left_out
            .iter()
            .map(|left| json!({"proxy": left.peer, "why": left.why, "scenarios": left.scenarios}));
        let all = json!({
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "left_out": left_out.collect::<Vec<_>>(),
        });
        std::fs::write(folder.join(format!("{name}.json")), format!("{all:#}\n"))?;
        std::fs::write(folder.join(format!("{name}.svg")), self.chart())
    }

    fn row(&self, scenario: &str, what: &str) -> Vec<Cell<'_>> {
        let here = || {
            let found = self.values.iter();
            found.filter(|((s, w, _), _)| s == scenario && w == what)
        };
        let of = |name: &str| {
            let mut found = here().filter(|((_, _, peer), _)| peer == name);
            found.next().map(|(_, rounds)| rounds)
        };
        let (haproxy, direct) = (of("haproxy"), of("direct"));
        let ratio = |rounds: &BTreeMap<usize, f64>, measure: Option<&BTreeMap<usize, f64>>| {
            // Only rounds that both have: one may have failed.
            let pairs = rounds
                .iter()
                .filter_map(|(round, value)| Some(value / measure?.get(round)?));
            let ratio = median(pairs.collect());
            ratio.is_finite().then_some(ratio)
        };
        here()
            .map(|((_, _, peer), rounds)| Cell {
                peer,
                rounds,
                median: median(rounds.values().copied().collect()),
                to_haproxy: ratio(rounds, haproxy.filter(|_| peer != "haproxy")),
                to_direct: ratio(rounds, direct.filter(|_| peer != "direct")),
            })
            .collect()
    }

    /// For each scenario a line of panels, one for each thing measured, each to its own scale.
    fn chart(&self) -> String {
        let (mut body, mut top) = (String::new(), 10);
        let mut scenarios: Vec<&str> = self.rows.iter().map(|row| row.0.as_str()).collect();
        scenarios.dedup();
        let mut widest = 0;
        for scenario in scenarios {
            let _ = writeln!(
                body,
                "<text x='10' y='{}' font-weight='bold'>{scenario}</text>",
                top + 14
            );
            let charted = self
                .rows
                .iter()
                .filter(|(s, what)| s == scenario && !NOT_CHARTED.contains(&what.as_str()));
            let mut tallest = 0;
            for (number, (_, what)) in charted.enumerate() {
                let left = 10 + number * PANEL;
                tallest = tallest.max(self.panel(&mut body, scenario, what, left, top + 34));
                widest = widest.max(left + PANEL);
            }
            top += 34 + tallest + 16;
        }
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{widest}' height='{top}' \
             font-family='sans-serif' font-size='12'>\n<rect width='100%' height='100%' \
             fill='white'/>\n{body}</svg>\n"
        )
    }

    /// Bars of one row; returns its height.
    fn panel(
        &self,
        body: &mut String,
        scenario: &str,
        what: &str,
        left: usize,
        top: usize,
    ) -> usize {
        let row = self.row(scenario, what);
        let values = row.iter().map(|cell| cell.median);
        let most = values.fold(f64::MIN_POSITIVE, f64::max);
        let _ = writeln!(
            body,
            "<text x='{left}' y='{top}' fill='#57534e'>{what}</text>"
        );
        let mut y = top;
        for cell in row {
            y += 18;
            let width = (cell.median / most * BAR).max(1.0);
            let colour = match cell.peer {
                "harbr-router" => "#c2410c",
                _ => "#94a3b8",
            };
            let _ = writeln!(
                body,
                "<text x='{left}' y='{y}'>{}</text><rect x='{}' y='{}' width='{width:.0}' \
                 height='13' fill='{colour}'/><text x='{:.0}' y='{y}'>{}</text>",
                cell.peer,
                left + 90,
                y - 11,
                left as f64 + 95.0 + width,
                short(cell.median)
            );
        }
        y + 4 - top
    }
}

/// Three digits where there are no more before the point.
fn short(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Of an even number the mean of the two in the middle; of none it is not a number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2);
    let lower = values.get(values.len().saturating_sub(1) / 2);
    match (lower, upper) {
        (Some(lower), Some(upper)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

/// Pixels of a panel, and of its longest bar.
const PANEL: usize = 280;
const BAR: f64 = 120.0;
/// Told in the table; too many panels otherwise.
const NOT_CHARTED: [&str; 3] = ["p50 ms", "p99.9 ms", "errors"];
