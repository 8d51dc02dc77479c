//! What the GPU's comparisons come to, as Markdown.

use super::cuda::memory::Taken;
use super::cuda::routes::{Race, Role, Runner};
use super::matmul::{Case, Part};
use twofour::Shape;

/// What a plan may lose against the best of its routes.
const LIMIT: f64 = 1.03;

pub fn print(races: &[Race], memory: &[Taken]) {
    if races.is_empty() {
        return;
    }
    routes(races);
    verdicts(races);
    bytes(memory);
}

/// The first cells of a row: shape, T, masks with the types of logits and weights.
fn place(case: &Case) -> String {
    let Case { kind, logits, weights, tokens, shape: Shape { rows, cols, .. }, .. } = case;
    format!("{rows}x{cols} | {tokens} | {} {logits} {weights}", format!("{kind:?}").to_lowercase())
}

fn ratio([low, median, high]: [f64; 3]) -> String {
    format!("{median:.3} | {low:.3} to {high:.3}")
}

fn routes(races: &[Race]) {
    println!(
        "\nEvery route, and its time over that of cuBLASLt's dense product in the same rounds (median, p20 to p80)\n"
    );
    println!("| shape | T | masks | cache | part | route | µs | TFLOP/s | over dense | p20 to p80 |");
    println!("| --- | ---: | --- | --- | --- | --- | ---: | ---: | ---: | --- |");
    for race in races {
        let Some(dense) = race.find(Role::Dense) else { continue };
        for runner in &race.runners {
            let name = if runner.role == Role::Chosen { format!("**{}**", runner.name) } else { runner.name.clone() };
            let nanoseconds = runner.median();
            println!(
                "| {} | {:?} | {:?} | {name} | {:.2} | {:.1} | {} |",
                place(&race.case),
                race.cache,
                race.case.part,
                nanoseconds / 1e3,
                race.operations() / nanoseconds / 1e3,
                ratio(runner.over(dense)),
            );
        }
    }
}

/// The few numbers that are asked for: of a race, none where it has no such runners.
fn verdicts(races: &[Race]) {
    let over_best = |race: &Race| Some(race.find(Role::Chosen)?.over(race.best()?)[1]);
    let lost: Vec<f64> = races.iter().filter_map(over_best).filter(|&times| times > LIMIT).collect();
    let worst = races.iter().filter_map(over_best).fold(1.0, f64::max);
    println!(
        "\nTimes over one another in the same rounds, medians; a plan is to take at most {LIMIT} of its best route, and \
         took more in {} of {} (worst: {worst:.3})\n",
        lost.len(),
        races.len(),
    );
    println!(
        "| shape | T | masks | cache | part | plan over its best route | own dense over cuBLASLt | plan over dense |"
    );
    println!("| --- | ---: | --- | --- | --- | ---: | ---: | ---: |");
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
    let over = |a: Option<&Runner>, b: Option<&Runner>| Some(a?.over(b?)[1]);
    for race in races {
        let [chosen, dense] = [race.find(Role::Chosen), race.find(Role::Dense)];
        // The gradient of the weight is not to be had alone: the logits' comes with it.
        let own = match race.case.part {
            Part::Dlogits => None,
            _ => over(race.find(Role::OwnDense), dense),
        };
        println!(
            "| {} | {:?} | {:?} | {} | {} | {} |",
            place(&race.case),
            race.cache,
            race.case.part,
            number(over_best(race)),
            number(own),
            number(over(chosen, dense)),
        );
    }
}

fn bytes(memory: &[Taken]) {
    println!("\nBytes a weight of a step, beyond weight, logits, their gradient and activations\n");
    println!("| shape | T | masks | keep | planned: kept | planned: workspace | planned | measured |");
    println!("| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |");
    for Taken { case, keep, kept, workspace, measured } in memory {
        let weights = case.shape.weights().max(1) as f64;
        let [kept, workspace, measured] = [kept, workspace, measured].map(|&bytes| bytes as f64 / weights);
        let planned = kept + workspace;
        println!("| {} | {keep:?} | {kept:.3} | {workspace:.3} | {planned:.3} | {measured:.3} |", place(case));
    }
}
