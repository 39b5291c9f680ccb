import { readdirSync, readFileSync } from "node:fs";
import { fromJson, type JsonValue } from "@bufbuild/protobuf";
import { BinaryWriter } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  CheckLimitResponseSchema,
  ExtendHoldResponseSchema,
  GrantResponseSchema,
  SettleLimitResponseSchema,
} from "../src/gen/index.js";
import type { OnError } from "../src/index.js";
import type { Method, Response } from "./scripted_server.js";

// The cases as they are in the files: see README.md beside them.

export interface ContractCase {
  name: string;
  options?: Record<string, unknown>;
  steps: Step[];
  accepts_after_ms?: number | null;
  stream?: true;
}

/** A case of targets.json. */
export interface TargetCase {
  name: string;
  target: string;
  library_resolves?: true;
  problem: string | null;
}

/** A case of tokens.json. */
export interface TokenCase {
  name: string;
  token: string;
  problem: string | null;
}

export interface Step {
  advance_ms?: number;
  close?: true;
  call?: Call;
  settle?: Abandoning & { actual: number };
  extend?: { hold_ms: number };
  scope?: Scope;
  ready?: { timeout_ms: number };
  wait?: object;
  withdraw?: string[];
  request?: { method: string; path: string; headers: Record<string, string> };
  server?: ScriptedItem[];
  expect?: Expected;
}

/** How a caller abandons its call. */
export interface Abandoning {
  deadline_ms?: number;
  cancel_after_ms?: number;
}

export interface Call extends Abandoning {
  api_key?: string;
  key_id?: string;
  resource?: string;
  cost?: number;
  peek?: true;
  charge?: true;
  reserve?: true;
  estimate?: number;
  hold_ms?: number;
  request_id?: string;
  invalid_utf8?: string;
  oversized?: string;
}

export interface Scope extends Call {
  on_error?: OnError;
  extend?: boolean;
  until_attempts?: number;
  settle?: number;
  wait_ms?: number;
  error?: true;
}

/** A field that is absent is not verified; one that is null is. */
export type Expected = Record<string, unknown>;

interface ScriptedItem {
  method?: Method;
  response?: JsonValue;
  status?: string;
  message?: string;
  reason?: string;
  field?: string;
  hang?: true;
  optional?: true;
}

const RESPONSES = {
  CheckLimit: CheckLimitResponseSchema,
  SettleLimit: SettleLimitResponseSchema,
  ExtendHold: ExtendHoldResponseSchema,
  Grant: GrantResponseSchema,
};

const FOLDER = new URL("../../../conformance/", import.meta.url);

/** The names of the files of cases. */
export function caseFiles(): string[] {
  const others = ["service_config.json", "targets.json", "tokens.json"];
  const files = readdirSync(FOLDER).filter((name) => name.endsWith(".json") && !others.includes(name));
  if (files.length < 10) {
    throw new Error(`found ${files.length} files of cases in ${FOLDER.pathname}; there are at least 10`);
  }
  return files;
}

export function readCases(file: string): ContractCase[] {
  return JSON.parse(readFileSync(new URL(file, FOLDER), "utf8")) as ContractCase[];
}

export function readTargets(): TargetCase[] {
  return JSON.parse(readFileSync(new URL("targets.json", FOLDER), "utf8")) as TargetCase[];
}

export function readTokens(): TokenCase[] {
  return JSON.parse(readFileSync(new URL("tokens.json", FOLDER), "utf8")) as TokenCase[];
}

export function responseOf(scripted: ScriptedItem): Response {
  const { method = "CheckLimit" } = scripted;
  if (scripted.hang) {
    return { method, hang: true };
  }
  if (scripted.response !== undefined) {
    return { method, respond: fromJson(RESPONSES[method] as typeof CheckLimitResponseSchema, scripted.response) };
  }
  const error = new ConnectError(scripted.message ?? "", codeOf(scripted.status ?? ""));
  if (scripted.reason !== undefined) {
    const info = new BinaryWriter().tag(1, 2).string(scripted.reason).tag(2, 2).string("ratelimit.v1");
    error.details.push({ type: "google.rpc.ErrorInfo", value: info.finish() });
  }
  if (scripted.field !== undefined) {
    const violation = new BinaryWriter()
      .tag(1, 2)
      .string(scripted.field)
      .tag(2, 2)
      .string(scripted.message ?? "");
    const badRequest = new BinaryWriter().tag(1, 2).bytes(violation.finish());
    error.details.push({ type: "google.rpc.BadRequest", value: badRequest.finish() });
  }
  return { method, fail: error };
}

function codeOf(status: string): Code {
  const name = status === "CANCELLED" ? "CANCELED" : status;
  for (const [known, code] of Object.entries(Code)) {
    if (typeof code === "number" && known.toUpperCase() === name.replaceAll("_", "")) {
      return code;
    }
  }
  throw new Error(`there is no code ${status}`);
}
