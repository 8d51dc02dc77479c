//! Packs a weight: 2:4 by magnitude or by codes that are given, and then as each piece of hardware and each library
//! reads it. Prints the bytes of every layout, how sure it is, and whether the weight comes back:
//! `cargo run --example pack_weight`.
//!
//! Exit code 0 if all is well, 1 if a weight does not come back, 2 if the arguments are wrong.

use clap::Parser;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Normal};
use std::process::ExitCode;
use twofour::compress::{Compressed, Layout, Sparsity};
use twofour::{Element, Shape, bf16, f16};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Packs a made-up weight to 2:4 in every layout, and reads it back.
#[derive(Debug, Parser)]
#[command(name = "pack_weight")]
struct Args {
    /// Rows of the weight: out features
    #[arg(long, default_value_t = 256)]
    rows: usize,
    /// Columns of the weight: in features, a multiple of 4
    #[arg(long, default_value_t = 512)]
    cols: usize,
    /// Its type. Of `f32` tensor cores keep one of two
    #[arg(long, default_value = "bf16", value_parser = ["f16", "bf16", "f32", "i8"])]
    dtype: String,
    /// Codes of the groups, a hexadecimal digit each, over and over: 4, 8, c, 9, d and e keep positions 0 1, 0 2, 0 3,
    /// 1 2, 1 3 and 2 3 [default: the two largest magnitudes of each group]
    #[arg(long, value_name = "DIGITS")]
    codes: Option<String>,
}

fn main() -> ExitCode {
    let good = run(&Args::parse()).inspect_err(|failure| eprintln!("error: {failure}"));
    ExitCode::from(good.map_or(2, |good| u8::from(!good)))
}

fn run(args: &Args) -> Result<bool> {
    let shape = Shape::new(args.rows, args.cols);
    shape.check()?;
    let numbers = Normal::new(0.0, 1.0)?.sample_iter(StdRng::seed_from_u64(24));
    let dense: Vec<f32> = numbers.take(shape.weights()).collect();
    match &*args.dtype {
        "f16" => pack(args, shape, &dense.into_iter().map(f16::from_f32).collect::<Vec<_>>()),
        "f32" => pack(args, shape, &dense),
        "i8" => pack(args, shape, &dense.into_iter().map(|value| (40.0 * value) as i8).collect::<Vec<_>>()),
        _ => pack(args, shape, &dense.into_iter().map(bf16::from_f32).collect::<Vec<_>>()),
    }
}

fn pack<T: Element + std::fmt::Debug>(args: &Args, shape: Shape, dense: &[T]) -> Result<bool> {
    let compressed = match &args.codes {
        Some(digits) => {
            let digits: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
            let digits = digits.filter(|digits| !digits.is_empty()).ok_or("`--codes` takes hexadecimal digits")?;
            // Two groups a byte, the even one in the low half.
            let mut codes = digits.into_iter().cycle().map(|digit| digit as u8);
            let mut byte = |_| codes.next().unwrap_or(0) | codes.next().unwrap_or(0) << 4;
            let bytes = 0..Sparsity::of(T::DTYPE).packed_codes(shape);
            Compressed::with_codes(shape, dense, &bytes.map(&mut byte).collect::<Vec<_>>())?
        }
        None => Compressed::by_magnitude(shape, dense)?,
    };
    println!("weight    {} x {} {}, {} bytes", shape.rows, shape.cols, T::DTYPE, size_of_val(dense));
    println!(
        "first     {:?}\n       to {:?}",
        &dense[..dense.len().min(8)],
        &compressed.decompress()[..dense.len().min(8)]
    );
    println!("{:<22} {:>9} {:>9} {:>9}   how sure", "layout", "values", "metadata", "of dense");

    let mut good = true;
    for layout in Layout::ALL {
        let sizes = match layout.sizes(shape, T::DTYPE) {
            Ok(sizes) => sizes,
            Err(refused) => {
                println!("{:<22} {refused}", layout.name());
                continue;
            }
        };
        // Values, and the metadata right behind them: what a library takes as a compressed matrix.
        let buffer = compressed.buffer(layout)?;
        let again = Compressed::from_buffer(shape, layout, &buffer)?;
        let share = 100.0 * buffer.len() as f64 / size_of_val(dense).max(1) as f64;
        let verdict = if again == compressed { "comes back" } else { "DOES NOT COME BACK" };
        let (name, evidence) = (layout.name(), layout.evidence(T::DTYPE));
        println!(
            "{name:<22} {:>9} {:>9} {share:>7.1} %   {evidence:?}: {verdict}",
            sizes.metadata_offset, sizes.metadata
        );
        good &= again == compressed;
    }
    Ok(good)
}
