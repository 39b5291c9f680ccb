{{- define "ratelimit-service.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "ratelimit-service.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "ratelimit-service.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ratelimit-service.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ratelimit-service.selector" -}}
app.kubernetes.io/name: {{ include "ratelimit-service.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ratelimit-service.labels" -}}
{{ include "ratelimit-service.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ratelimit-service.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}

{{- /* The Secret of the servers; without it nothing is rendered. */}}
{{- define "ratelimit-service.secret" -}}
{{- required "secret.existingSecret is not set: make a Secret with the keys database-url, redis-url and peppers, and name it" .Values.secret.existingSecret }}
{{- end }}

{{- /* What every pod has, whatever it runs. */}}
{{- define "ratelimit-service.pod" -}}
automountServiceAccountToken: false
{{- /* Kubernetes would add variables RATELIMIT_SERVICE_..., which look like settings. */}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What every container has. */}}
{{- define "ratelimit-service.container" -}}
image: {{ include "ratelimit-service.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  capabilities: { drop: [ALL] }
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "ratelimit-service.fromSecret" -}}
- name: {{ .variable }}
  valueFrom: { secretKeyRef: { name: {{ .secret }}, key: {{ .key }} } }
{{- end }}

{{- /* The planes of the servers: each has a Deployment. */}}
{{- define "ratelimit-service.planes" -}}
{{- if .Values.control.separate }}
{{- if not .Values.secret.keys.decisionDatabaseUrl }}
{{- fail "control.separate is set, and secret.keys.decisionDatabaseUrl is not: name the key with the URL of a role that only reads; `migrate --print-grants` prints what it needs" }}
{{- end -}}
decision control
{{- else -}}
all
{{- end }}
{{- end }}

{{- /* The component of the pods of a plane, and of those with the admin methods. */}}
{{- define "ratelimit-service.component" -}}
{{ ternary "control" "server" (eq . "control") }}
{{- end }}
{{- define "ratelimit-service.adminComponent" -}}
{{ ternary "control" "server" .Values.control.separate }}
{{- end }}

{{- /* The settings of a server with .plane; .root is the chart's. One that only decides has no secret of the control plane. */}}
{{- define "ratelimit-service.env" -}}
{{- $plane := .plane }}
{{- with .root }}
{{- $secret := include "ratelimit-service.secret" . }}
{{- with .Values.secret.keys }}
{{- if ne $plane "decision" }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_DATABASE_URL" "secret" $secret "key" .databaseUrl) }}
{{- end }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_REDIS_URL" "secret" $secret "key" .redisUrl) }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_PEPPERS" "secret" $secret "key" .peppers) }}
{{- if .decisionDatabaseUrl }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_DECISION_DATABASE_URL" "secret" $secret "key" .decisionDatabaseUrl) }}
{{- end }}
{{- if and .alertWebhookUrl (ne $plane "decision") }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_ALERT_WEBHOOK_URL" "secret" $secret "key" .alertWebhookUrl) }}
{{- end }}
{{- if and .alertWebhookSecret (ne $plane "decision") }}
{{ include "ratelimit-service.fromSecret" (dict "variable" "RATELIMIT_ALERT_WEBHOOK_SECRET" "secret" $secret "key" .alertWebhookSecret) }}
{{- end }}
{{- end }}
- { name: RATELIMIT_PLANE, value: {{ $plane }} }
- { name: RATELIMIT_LISTEN, value: "0.0.0.0:{{ ternary 50052 50051 (eq $plane "control") }}" }
{{- if eq $plane "all" }}
- { name: RATELIMIT_ADMIN_LISTEN, value: "0.0.0.0:50052" }
{{- end }}
- { name: RATELIMIT_OPERATIONS_LISTEN, value: "0.0.0.0:9464" }
- { name: RATELIMIT_TRANSPORT, value: {{ ternary "auto" .Values.transport (eq $plane "control") | quote }} }
- { name: RATELIMIT_WORKERS, value: {{ ternary 1 (int .Values.workers) (eq $plane "control") | quote }} }
- { name: RATELIMIT_DRAIN_DELAY, value: {{ .Values.drainDelay | quote }} }
- { name: RATELIMIT_DRAIN_TIMEOUT, value: {{ .Values.drainTimeout | quote }} }
- { name: RATELIMIT_LOG_FORMAT, value: {{ .Values.logFormat | quote }} }
{{- if .Values.tls.existingSecret }}
- { name: RATELIMIT_TLS_CERTIFICATE, value: /etc/ratelimit-service/tls/tls.crt }
- { name: RATELIMIT_TLS_KEY, value: /etc/ratelimit-service/tls/tls.key }
{{- if .Values.tls.clientCa }}
- { name: RATELIMIT_TLS_CLIENT_CA, value: /etc/ratelimit-service/tls/ca.crt }
{{- end }}
{{- with .Values.tls.gatewayCertificates }}
- { name: RATELIMIT_GATEWAY_CERTIFICATES, value: {{ join "," . | quote }} }
{{- end }}
{{- else if .Values.allowPlaintext }}
- { name: RATELIMIT_ALLOW_PLAINTEXT, value: "true" }
{{- else }}
{{- fail "tokens and keys would be sent in plain text: set tls.existingSecret, or allowPlaintext=true if the network encrypts by itself, as a service mesh does" }}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if not (and (eq $plane "decision") (contains "_CONSOLE_" $name)) }}
- { name: {{ $name }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ratelimit-service.mounts" -}}
- { name: tmp, mountPath: /tmp }
{{- if .Values.tls.existingSecret }}
- { name: tls, mountPath: /etc/ratelimit-service/tls, readOnly: true }
{{- end }}
{{- end }}

{{- define "ratelimit-service.volumes" -}}
- { name: tmp, emptyDir: { medium: Memory, sizeLimit: {{ .Values.tmpSize }} } }
{{- if .Values.tls.existingSecret }}
- { name: tls, secret: { secretName: {{ .Values.tls.existingSecret }}, defaultMode: 0440 } }
{{- end }}
{{- end }}
