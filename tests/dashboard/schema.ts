// SPDX-License-Identifier: GPL-2.0-or-later

// The types of Grafana's schema for a dashboard in JSON. tools/dashboard.py lets tsc compare the dashboard with them.

import type { Dashboard, DataQuery, FieldConfig, FieldConfigSource, GraphFieldConfig, Panel } from '@grafana/schema';
import type { Options as StatOptions } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as TimeSeriesOptions } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/** The same type with literals instead of enums, because JSON has no enums, and without what Grafana has a default for. */
type Plain<T> = T extends string ? `${T}` : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends Array<infer E> ? Array<Plain<E>> : T extends object ? { [K in keyof T]?: Plain<T[K]> } : T;

interface PrometheusQuery extends DataQuery {
  expr: string;
  legendFormat: string;
  instant: boolean;
  range: boolean;
}

interface Fields<Custom> {
  defaults: Plain<Omit<FieldConfig, 'custom'>> & { custom?: Plain<Custom> };
  overrides: Plain<FieldConfigSource['overrides']>;
}

type Typed<Type, Options, Custom> = Plain<Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'>> & {
  type: Type;
  options?: Plain<Options>;
  fieldConfig: Fields<Custom>;
  targets: Array<Plain<PrometheusQuery>>;
};

/** A dashboard of panels that page.tsx can draw. */
type Checked = Plain<Omit<Dashboard, 'panels'>> & {
  panels: Array<Typed<'stat', StatOptions, {}> | Typed<'timeseries', TimeSeriesOptions, GraphFieldConfig>>;
};

export function check(_: Checked) {}
