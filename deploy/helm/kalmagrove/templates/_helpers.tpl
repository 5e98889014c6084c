{{- define "kalmagrove.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" (.Release.Name | trunc 37 | trimSuffix "-") .Chart.Name -}}
{{- end -}}
{{- end -}}

{{- define "kalmagrove.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kalmagrove.labels" -}}
{{ include "kalmagrove.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "kalmagrove.keys" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "kalmagrove.fullname" .)) -}}
{{- end -}}

{{- /* What would be served wrongly is refused here, where there are words for it. */ -}}
{{- define "kalmagrove.check" -}}
{{- if and (or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled) (not .Values.separateKnowledge) (not .Values.knowledge.urlSecret) -}}
{{- fail "replicas share no knowledge: an edit reaches one of them only. Give knowledge.urlSecret, the URL of one facts log in PostgreSQL, or set separateKnowledge=true if every edit is sent to each" -}}
{{- end -}}
{{- if and .Values.separateKnowledge .Values.knowledge.urlSecret -}}
{{- fail "separateKnowledge: with knowledge.urlSecret all replicas share one facts log" -}}
{{- end -}}
{{- if and (not .Values.keys.existingSecret) (not (and .Values.keys.client .Values.keys.admin)) -}}
{{- fail "keys: give existingSecret, or client and admin (lines of `kalmagrove key create`)" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling: minReplicas is more than maxReplicas" -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if hasPrefix "KALMAGROVE_" (.name | default "") -}}
{{- fail (printf "extraEnv: %s belongs under settings, which says what may be set" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.serviceMonitor.keySecret) -}}
{{- fail "serviceMonitor.keySecret: /metrics needs a key" -}}
{{- end -}}
{{- end -}}
