//! Line charts as SVG.

use plotters::prelude::{
    BLACK, ChartBuilder, IntoDrawingArea as _, IntoFont as _, LineSeries, Palette as _, Palette99, PathElement,
    SVGBackend, WHITE,
};

/// A line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// Why a chart cannot be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the chart {title}: {why}")]
pub struct ChartError {
    title: String,
    why: String,
}

/// An SVG of some lines.
pub fn svg(title: &str, x: &str, y: &str, lines: &[Line]) -> Result<String, ChartError> {
    let mut out = String::new();
    draw(&mut out, title, x, y, lines).map_err(|why| ChartError { title: title.to_owned(), why })?;
    Ok(out)
}

fn draw(out: &mut String, title: &str, x: &str, y: &str, lines: &[Line]) -> Result<(), String> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let range = |of: fn((f64, f64)) -> f64| {
        let least = points().map(of).fold(f64::INFINITY, f64::min);
        let most = points().map(of).fold(f64::NEG_INFINITY, f64::max);
        if least < most { least..most } else { 0.0..1.0 }
    };
    let area = SVGBackend::with_string(out, (900, 520)).into_drawing_area();
    area.fill(&WHITE).map_err(|e| e.to_string())?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20).into_font())
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(range(|p| p.0), range(|p| p.1))
        .map_err(|e| e.to_string())?;
    chart.configure_mesh().x_desc(x).y_desc(y).draw().map_err(|e| e.to_string())?;
    for (number, line) in lines.iter().enumerate() {
        let colour = Palette99::pick(number);
        let (r, g, b) = plotters::style::Color::to_backend_color(&colour).rgb;
        let colour = plotters::style::RGBColor(r, g, b);
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), &colour))
            .map_err(|e| e.to_string())?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw().map_err(|e| e.to_string())?;
    area.present().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_lines() {
        let line = Line { name: "yun & friends".into(), points: vec![(0.0, 1.0), (1.0, 2.0)] };
        let text = svg("allocation", "arrived", "allocated", &[line]).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("yun &amp; friends") && text.contains("allocated"));
        assert!(svg("nothing", "x", "y", &[]).is_ok());
    }
}
