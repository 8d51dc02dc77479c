//! The table that is printed.

use crate::Job;
use crate::layer::Results;
use crate::reference::Check;
use std::time::Duration;
use twofour::mask::Kind;
use twofour::matmul::Keep;
use twofour::{Float, Logit};

pub(crate) fn print<L: Logit, W: Float>(job: &Job, results: &Results<L, W>, checks: &[Check]) {
    let (shape, sampling) = (job.problem.shape, job.sampling);
    println!("device    {}", results.place.device);
    println!("weight    {} x {} {}, {}", shape.rows, shape.cols, W::DTYPE, job.weight.origin);
    println!("tokens    {}", job.problem.tokens);
    println!("masks     {}, logits {}", name(job.kind), L::DTYPE);
    println!("          κ = {}, τ = {}, λ = {}, seed {}", sampling.kappa, sampling.tau, job.lambda, sampling.seed);
    println!("          {}", found(job, results));
    println!();
    print_plan(job, results);
    println!();
    print_times(job, results);
    println!();
    print_checks(checks);
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Soft => "soft",
        Kind::Hard => "hard",
        Kind::Argmax => "argmax",
    }
}

/// The masks in two numbers.
fn found<L: Logit, W: Float>(job: &Job, results: &Results<L, W>) -> String {
    let confidence = format!("mean confidence {:.3}", results.statistics.confidence);
    if job.kind == Kind::Soft || results.mask.is_empty() {
        return confidence;
    }
    let zeros = results.mask.iter().filter(|value| value.to_f32() == 0.0).count();
    format!("{:.2} % zeros, {confidence}", 100.0 * zeros as f64 / results.mask.len() as f64)
}

fn print_plan<L: Logit, W: Float>(job: &Job, results: &Results<L, W>) {
    println!("plan      {}", results.place.planned_for);
    results.plan.to_string().lines().for_each(|line| println!("          {line}"));
    let weights = job.problem.shape.weights().max(1) as f64;
    let [kept, workspace] = [results.plan.saved_bytes(), results.plan.workspace_bytes()];
    let each = (kept + workspace) as f64 / weights;
    println!("          keeps {kept} bytes, and works in {workspace} bytes: {each:.2} a weight");
}

fn print_times<L: Logit, W: Float>(job: &Job, results: &Results<L, W>) {
    let times = &results.times;
    println!("{:<28} {:>10} {:>10}", "part (best of 3)", "time", "GFLOP/s");
    println!("{:<28} {:>7.3} ms {:>10}", "masks, W∘M", milliseconds(times.masks), "");
    let line = |part: &str, time: Duration, products: f64| {
        let speed = products * job.problem.operations() / time.as_secs_f64().max(1e-9) / 1e9;
        println!("{part:<28} {:>7.3} ms {speed:>10.1}", milliseconds(time));
    };
    line("Y = X (W∘M)ᵀ, with masks", times.y, 1.0);
    if let Some(product) = times.product {
        line("Y by W∘M as it was kept", product, 1.0);
    }
    let dx = if job.keep == Keep::Nothing { "dX = dY (W∘M), with masks" } else { "dX = dY (W∘M)" };
    line(dx, times.dx, 1.0);
    if job.kind == Kind::Argmax {
        return;
    }
    line("dlogits from dYᵀ X", times.logit_gradient, 1.0);
    line("all of the step", times.y + times.dx + times.logit_gradient, 3.0);
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn print_checks(checks: &[Check]) {
    println!("{:<10} {:>12} {:>12}   against a naive f64 reference", "result", "max error", "of bound");
    for check in checks {
        let Check { name, checked: [rows, cols], size: [all_rows, all_cols], .. } = check;
        let entries = match check.checked == check.size {
            true => format!("all {rows} x {cols} entries"),
            false => format!("{rows} x {cols} of {all_rows} x {all_cols} entries"),
        };
        let entries = if *name == "dlogits" { entries.replace("entries", "groups") } else { entries };
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        println!("{name:<10} {:>12.3e} {:>10.1} %   {entries}: {verdict}", check.largest_error, 100.0 * check.worst);
    }
}
