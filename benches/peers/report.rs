//! Medians, their table, JSON and a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

/// What was measured, in the order it came.
#[derive(Default)]
pub struct Report {
    rows: Vec<(String, String)>,
    values: BTreeMap<(String, String, String), Vec<f64>>,
    left_out: Vec<String>,
}

impl Report {
    pub fn add(&mut self, scenario: &str, what: &str, proxy: &str, value: f64) {
        let row = (scenario.to_string(), what.to_string());
        if !self.rows.contains(&row) {
            self.rows.push(row.clone());
        }
        let key = (row.0, row.1, proxy.to_string());
        self.values.entry(key).or_default().push(value);
    }

    pub fn leave_out(&mut self, scenario: &str, proxy: &str, why: &str) {
        let line = format!("{scenario}: without {proxy}: {why}");
        if !self.left_out.contains(&line) {
            self.left_out.push(line);
        }
    }

    pub fn print(&self) {
        for (scenario, what) in &self.rows {
            let mut line = format!("{scenario:<14} {what:<15}");
            for (proxy, median, ratio) in self.row(scenario, what) {
                let _ = write!(line, "  {proxy} {median:.2}");
                if let Some(ratio) = ratio {
                    let _ = write!(line, " ({ratio:.2}x)");
                }
            }
            println!("{line}");
        }
        println!("(in brackets: the median of the ratios to HAProxy within a round)");
        for line in &self.left_out {
            println!("{line}");
        }
    }

    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        let rows: Vec<Value> = self.rows.iter().map(|(scenario, what)| {
            let proxies: Vec<Value> = self.row(scenario, what).into_iter().map(|(proxy, median, ratio)| {
                json!({"proxy": proxy, "median": median, "to_haproxy": ratio})
            }).collect();
            json!({"scenario": scenario, "what": what, "proxies": proxies})
        }).collect();
        let all = json!({"rows": rows, "left_out": self.left_out});
        std::fs::write(folder.join("peers.json"), format!("{all:#}\n"))?;
        std::fs::write(folder.join("peers.svg"), self.chart())
    }

    fn row(&self, scenario: &str, what: &str) -> Vec<(&str, f64, Option<f64>)> {
        let of = |proxy: &str| {
            let key = (scenario.to_string(), what.to_string(), proxy.to_string());
            self.values.get(&key)
        };
        let measure = of("haproxy");
        let here = self
            .values
            .iter()
            .filter(|((s, w, _), _)| s == scenario && w == what);
        here.map(|((_, _, proxy), values)| {
            let ratios = measure.map(|measure| {
                let pairs = values.iter().zip(measure);
                median(pairs.map(|(ours, theirs)| ours / theirs).collect())
            });
            let ratio = ratios.filter(|ratio| ratio.is_finite() && proxy != "haproxy");
            (proxy.as_str(), median(values.clone()), ratio)
        })
        .collect()
    }

    /// Bars of CPU per request, each scenario to its own scale.
    fn chart(&self) -> String {
        let (mut body, mut y) = (String::new(), 20);
        for (scenario, what) in self
            .rows
            .iter()
            .filter(|(_, what)| what == "CPU µs/request")
        {
            let row = self.row(scenario, what);
            let most = row
                .iter()
                .map(|(_, value, _)| *value)
                .fold(f64::MIN_POSITIVE, f64::max);
            let _ = writeln!(
                body,
                "<text x='10' y='{y}' font-weight='bold'>{scenario}, {what}</text>"
            );
            for (proxy, value, _) in row {
                y += 20;
                let width = value / most * 420.0;
                let colour = if proxy == "harbr-router" {
                    "#c2410c"
                } else {
                    "#94a3b8"
                };
                let _ = writeln!(
                    body,
                    "<text x='10' y='{y}'>{proxy}</text><rect x='130' y='{0}' width='{width:.0}' \
                     height='14' fill='{colour}'/><text x='{1:.0}' y='{y}'>{value:.1}</text>",
                    y - 12,
                    140.0 + width
                );
            }
            y += 34;
        }
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='640' height='{y}' \
             font-family='sans-serif' font-size='13'>\n<rect width='100%' height='100%' \
             fill='white'/>\n{body}</svg>\n"
        )
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
