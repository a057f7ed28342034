// SPDX-License-Identifier: GPL-2.0-or-later

// Draws a dashboard of Grafana with Grafana's own libraries, from the data of a Prometheus. tools/dashboard.py serves
// this page, and reads `window.report`.
//
// Neither Grafana's server nor its panel plugins are in npm. So this file does what they do between the libraries: it
// replaces variables, asks Prometheus, and gives each panel's options to the component that draws it. It throws an
// error if it finds something in a dashboard that it does not know.

import {
  FieldColorModeId, type FieldConfigPropertyItem, type FieldConfigSource, FieldType, type InterpolateFunction, PanelPlugin,
  ThemeContext, ThresholdsMode, type TimeRange, applyFieldOverrides, createTheme, getDisplayValueAlignmentFactors,
  getFieldDisplayName, getFieldDisplayValues, getPanelOptionsWithDefaults, getValueFormatterIndex, identityOverrideProcessor,
  rangeUtil, standardFieldConfigEditorRegistry, toDataFrame,
} from '@grafana/data';
import { type Panel, defaultDashboard } from '@grafana/schema';
import { defaultOptions as statDefaults } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import { BigValue, GlobalStyles, PanelChrome, TimeSeries, VizRepeater } from '@grafana/ui';
import { flushSync } from 'react-dom';
import { createRoot } from 'react-dom/client';

// The grid of a dashboard: 24 columns, rows of 30 pixels, and 8 pixels between panels.
const [COLUMNS, ROW, GAP] = [24, 30, 8];
const timeZone = 'utc';
const theme = createTheme({ colors: { mode: 'dark' } });
const address = new URLSearchParams(location.search);
// Where Prometheus is, and how often it scrapes. Grafana's data source has the same settings.
const [prometheus, scrape] = [address.get('prometheus')!, address.get('scrape')!];

type Values = Record<string, string>;
type Query = { refId: string; expr: string; legendFormat: string; instant?: boolean };

/** An option of fields: its default, and the type of those fields that have it, unless all have it. */
const option = (id: string, defaultValue?: unknown, type?: FieldType): FieldConfigPropertyItem => ({
  id, path: id, name: id, defaultValue, editor: () => null, override: () => null, process: identityOverrideProcessor,
  shouldApply: (field) => !type || field.type === type,
});

// The defaults are Grafana's. In particular, a panel without thresholds has a red one at 80.
const steps = [{ value: -Infinity, color: 'green' }, { value: 80, color: 'red' }];
standardFieldConfigEditorRegistry.setInit(() => [
  ...['unit', 'displayName', 'color', 'noValue', 'links'].map((id) => option(id)),
  ...['min', 'max', 'decimals', 'fieldMinMax'].map((id) => option(id, undefined, FieldType.number)),
  option('mappings', []),
  option('thresholds', { mode: ThresholdsMode.Absolute, steps }),
]);

const graph = {
  drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, lineStyle: undefined, fillOpacity: 0, gradientMode: 'none',
  barAlignment: 0, barWidthFactor: 0.6, showPoints: 'auto', pointSize: 5, spanNulls: false, insertNulls: false,
  stacking: { mode: 'none', group: 'A' }, transform: undefined, axisPlacement: 'auto', axisLabel: '', axisColorMode: 'text',
  axisCenteredZero: false, axisBorderShow: false, axisSoftMin: undefined, axisSoftMax: undefined,
  scaleDistribution: { type: 'linear' }, hideFrom: { tooltip: false, viz: false, legend: false },
  thresholdsStyle: { mode: 'off' },
};

const plugins: Record<string, PanelPlugin> = {
  stat: new PanelPlugin(null).useFieldConfig(),
  timeseries: new PanelPlugin(null).useFieldConfig({
    standardOptions: { color: { defaultValue: { mode: FieldColorModeId.PaletteClassic } } },
    useCustomConfig: (builder) =>
      Object.entries(graph).forEach(([id, value]) => builder.addCustomEditor(option(id, value, FieldType.number))),
  }),
};

async function ask(path: string, parameters: Values) {
  const answer = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await answer.json();
  if (status !== 'success') {
    throw new Error(`Prometheus: ${error}: ${JSON.stringify(parameters)}`);
  }
  return data;
}

/** Returns a function that replaces `$name` and `${name}`; an unknown name is an error. */
const replacer = (values: Values): InterpolateFunction => (text) =>
  (text ?? '').replace(/\$(?:\{(\w+)\}|(\w+))/g, (found, braced, bare) => {
    const value = values[braced ?? bare];
    if (value === undefined) {
      throw new Error(`${found} is not a variable`);
    }
    return value;
  });

/** Finds the values of the dashboard's variables: all that a query finds, or those that the URL has as `var-NAME`. */
async function variables(list: any[]) {
  const values: Values = {};
  for (const { type, name, query } of list) {
    if (type === 'datasource') {
      values[name] = 'prometheus';
    } else if (type === 'query') {
      const [, series, label] = query.query.match(/^label_values\((.+), *(\w+)\)$/);
      const found: string[] = await ask(`label/${label}/values`, { 'match[]': replacer(values)(series) });
      const chosen = address.has(`var-${name}`) ? address.getAll(`var-${name}`) : found;
      // The value is for a regular expression in a quoted string.
      values[name] = `(${chosen.map((value) => value.replace(/[\\^$*+?.()|[\]{}]/g, '\\\\$&')).join('|')})`;
    } else {
      throw new Error(`${name} is a variable of type ${type}`);
    }
  }
  return values;
}

/** Asks for all series of a panel. */
async function frames(panel: Panel, width: number, range: TimeRange, values: Values) {
  const { interval, intervalMs } = rangeUtil.calculateInterval(range, width, panel.interval ?? scrape);
  const [step, between] = [intervalMs / 1000, rangeUtil.intervalToSeconds(scrape)];
  const replace = replacer({ ...values, __interval: interval, __rate_interval: `${Math.max(step + between, 4 * between)}s` });
  // Grafana asks for multiples of the step.
  const [start, end] = [range.from, range.to].map((time) => String(Math.floor(time.unix() / step) * step));
  const empty: string[] = [];
  const answer = async ({ refId, expr, legendFormat, instant }: Query) => {
    const query = replace(expr);
    const { result } = instant
      ? await ask('query', { query, time: String(range.to.unix()) })
      : await ask('query_range', { query, start, end, step: String(step) });
    if (!result.length) {
      empty.push(query);
    }
    return result.map(({ metric, value, values = [value] }: any) => {
      const displayNameFromDS = legendFormat.replace(/\{\{ *(\w+) *\}\}/g, (_, label) => metric[label] ?? '');
      const [times, numbers] = [1000, 1].map((factor, n) => values.map((sample: any) => Number(sample[n]) * factor));
      return toDataFrame({
        refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: times, config: { interval: intervalMs } },
          { name: 'Value', type: FieldType.number, labels: metric, values: numbers, config: { displayNameFromDS } },
        ],
      });
    });
  };
  const data = (await Promise.all((panel.targets as unknown as Query[]).map(answer))).flat();
  return { data, empty, replace };
}

/** Returns the component that draws a panel, and what the panel shows. */
async function load(panel: Panel, width: number, range: TimeRange, values: Values) {
  const plugin = plugins[panel.type];
  const unit = panel.fieldConfig?.defaults.unit;
  if (!plugin || panel.repeat || panel.transformations || (unit && !getValueFormatterIndex()[unit])) {
    throw new Error(`${panel.title} has an unknown type (${panel.type}) or unit (${unit}), or repeat or transformations`);
  }
  const { options, fieldConfig } = getPanelOptionsWithDefaults({
    plugin, currentOptions: panel.options as any, currentFieldConfig: panel.fieldConfig as FieldConfigSource,
    isAfterPluginChange: false,
  });
  const { data, empty, replace: replaceVariables } = await frames(panel, width, range, values);
  const { fieldConfigRegistry } = plugin;
  const series = applyFieldOverrides({ data, fieldConfig, fieldConfigRegistry, replaceVariables, theme, timeZone });
  const names = series.flatMap((frame) => frame.fields.slice(1).map((field) => getFieldDisplayName(field, frame, series)));
  const stat = (width: number, height: number) => {
    const { wideLayout, graphMode, reduceOptions, ...more }: any = { ...statDefaults, ...options };
    const sparkline = graphMode !== 'none';
    return (
      <VizRepeater
        {...{ width, height }} source={series} orientation={'auto' as any} itemSpacing={3} renderCounter={0} autoGrid
        getAlignmentFactors={getDisplayValueAlignmentFactors}
        getValues={() =>
          getFieldDisplayValues({ fieldConfig, reduceOptions, replaceVariables, theme, data: series, sparkline, timeZone })}
        renderValue={({ value, orientation, ...place }) =>
          <BigValue {...{ ...more, ...place, graphMode, theme }} value={value.display} sparkline={value.sparkline} disableWideLayout={!wideLayout} />}
      />
    );
  };
  const timeseries = (width: number, height: number) => {
    const legend = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [], ...(options as any).legend };
    return <TimeSeries frames={series} timeRange={range} {...{ timeZone, legend, width, height }} />;
  };
  const view = series.length ? { stat, timeseries }[panel.type]! : () => <div>No data</div>;
  return { panel, view, report: { title: panel.title, description: panel.description, series: names, empty } };
}

async function draw() {
  const dashboard = await (await fetch('/dashboard.json')).json();
  if (dashboard.schemaVersion !== defaultDashboard.schemaVersion) {
    throw new Error(`schemaVersion is ${dashboard.schemaVersion}; this Grafana has ${defaultDashboard.schemaVersion}`);
  }
  const range = rangeUtil.convertRawToRange({ ...dashboard.time, from: address.get('from') ?? dashboard.time.from }, timeZone);
  const values = await variables(dashboard.templating.list);
  const column = (innerWidth - GAP) / COLUMNS;
  const panels = await Promise.all(
    dashboard.panels.map((panel: Panel) => load(panel, Math.floor(panel.gridPos!.w * column), range, values))
  );
  // Components measure their texts.
  await Promise.all(['400', '500'].map((weight) => document.fonts.load(`${weight} 14px Inter`)));
  const top = 40;
  const page = panels.map(({ panel: { id, title, description, gridPos: { x, y, w, h } }, view }) => (
    <div key={id} data-panel={title} style={{ position: 'absolute', left: GAP + x * column, top: top + y * (ROW + GAP) }}>
      <PanelChrome {...{ title, description }} width={w * column - GAP} height={h * (ROW + GAP) - GAP}>
        {view}
      </PanelChrome>
    </div>
  ));
  const root = createRoot(document.getElementById('page')!);
  flushSync(() =>
    root.render(
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        <h4 style={{ margin: GAP }}>{dashboard.title} {address.getAll('var-instance').join(', ')}</h4>
        {page}
      </ThemeContext.Provider>
    )
  );
  (window as any).report = panels.map(({ report }) => report);
}

void draw();
